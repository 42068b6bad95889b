"""What rewritings say of their own: one paragraph each, in English, German, French, Spanish and Chinese.

    strategy --> variant (what the prompt is like) --> language --> the paragraph

A paragraph is recognised by its exact text: that makes rewriting idempotent. So none has a line break, and a change
here makes prompts that were rewritten before look as if they were not.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from workbench.decide.words import Language

Row = Mapping[Language, str]


def _row(en: str, de: str, fr: str, es: str, zh: str) -> Row:
    return MappingProxyType({"en": en, "de": de, "fr": fr, "es": es, "zh": zh})


_CLARIFY = {
    "answer": _row(
        'State the answer in the last line as "Answer: <answer>".',
        "Nenne die Antwort in der letzten Zeile als „Antwort: <Antwort>“.",
        "Donne la réponse à la dernière ligne, sous la forme « Réponse : <réponse> ».",
        "Da la respuesta en la última línea como «Respuesta: <respuesta>».",
        "请在最后一行写出答案，格式为“答案：<答案>”。",
    ),
    "option": _row(
        'State the letter of the right option in the last line as "Answer: (<letter>)".',
        "Nenne den Buchstaben der richtigen Möglichkeit in der letzten Zeile als „Antwort: (<Buchstabe>)“.",
        "Donne la lettre de la bonne option à la dernière ligne, sous la forme « Réponse : (<lettre>) ».",
        "Da la letra de la opción correcta en la última línea como «Respuesta: (<letra>)».",
        "请在最后一行写出正确选项的字母，格式为“答案：(<字母>)”。",
    ),
    "summarization": _row(
        "The task is a summary of the text that keeps to what the text says.",
        "Die Aufgabe ist eine Zusammenfassung des Textes, die sich an seine Aussagen hält.",
        "La tâche est un résumé du texte, fidèle à ce qu'il dit.",
        "La tarea es un resumen del texto, fiel a lo que dice.",
        "任务是对这段文字作出忠实于原文的摘要。",
    ),
    "translation": _row(
        "The task is a translation of the whole text that keeps its meaning and its tone.",
        "Die Aufgabe ist eine Übersetzung des ganzen Textes, die Sinn und Ton bewahrt.",
        "La tâche est une traduction de tout le texte qui en garde le sens et le ton.",
        "La tarea es una traducción de todo el texto que conserve su sentido y su tono.",
        "任务是翻译全文，并保持原文的意思和语气。",
    ),
    "code_generation": _row(
        "The task is complete code that runs as it stands.",
        "Die Aufgabe ist vollständiger Code, der so läuft, wie er dasteht.",
        "La tâche est un code complet qui fonctionne tel quel.",
        "La tarea es código completo que funcione tal como está.",
        "任务是写出可以直接运行的完整代码。",
    ),
}

_EXPAND = {
    "summarization": _row(
        "Consider the main claims, what supports them, who is involved, and how it ends.",
        "Bedenke die Hauptaussagen, was sie stützt, wer beteiligt ist und wie es ausgeht.",
        "Considère les idées principales, ce qui les appuie, qui est concerné et comment cela finit.",
        "Considera las ideas principales, lo que las apoya, quién participa y cómo termina.",
        "请考虑主要观点、支持它们的依据、涉及的人以及结局。",
    ),
    "translation": _row(
        "Consider the sense of idioms, the level of formality, and the names and figures that stay as they are.",
        "Bedenke den Sinn von Redewendungen, die Anredeform und die Namen und Zahlen, die bleiben, wie sie sind.",
        "Considère le sens des expressions, le niveau de langue, et les noms et chiffres à garder tels quels.",
        "Considera el sentido de los modismos, el grado de formalidad y los nombres y cifras que quedan como están.",
        "请考虑习语的含义、语体的正式程度，以及应保持原样的人名和数字。",
    ),
    "question_answering": _row(
        "Consider what exactly is asked, which facts decide it, and which answer seems right at first but is wrong.",
        "Bedenke, was genau gefragt ist, welche Tatsachen entscheiden und welche Antwort nur scheinbar stimmt.",
        "Considère ce qui est demandé exactement, les faits décisifs, et la réponse qui semble juste mais est fausse.",
        "Considera qué se pregunta exactamente, qué hechos lo deciden y qué respuesta parece correcta pero es falsa.",
        "请考虑问题究竟在问什么、哪些事实起决定作用，以及哪个答案看似正确其实错误。",
    ),
    "code_generation": _row(
        "Consider empty and invalid input, the limits of ranges, errors, and what it costs for large input.",
        "Bedenke leere und ungültige Eingaben, die Grenzen, Fehler und die Kosten bei großen Eingaben.",
        "Considère les entrées vides ou invalides, les bornes, les erreurs et le coût pour de grandes entrées.",
        "Considera entradas vacías o inválidas, los límites, los errores y el costo con entradas grandes.",
        "请考虑空输入和无效输入、边界情况、错误处理，以及大输入时的开销。",
    ),
    "reasoning": _row(
        "Consider what is given, what is sought, which units are used, and how the result can be checked.",
        "Bedenke, was gegeben ist, was gesucht ist, welche Einheiten gelten und wie sich das Ergebnis prüfen lässt.",
        "Considère ce qui est donné, ce qui est cherché, les unités, et comment vérifier le résultat.",
        "Considera lo que se da, lo que se busca, las unidades y cómo comprobar el resultado.",
        "请考虑已知条件、所求的量、所用的单位，以及如何检验结果。",
    ),
    "general": _row(
        "Consider who the answer is for, which points matter most, and what would make it useful.",
        "Bedenke, für wen die Antwort ist, welche Punkte am wichtigsten sind und was sie nützlich macht.",
        "Considère à qui la réponse s'adresse, les points les plus importants et ce qui la rend utile.",
        "Considera para quién es la respuesta, qué puntos importan más y qué la haría útil.",
        "请考虑答案是给谁看的、哪些要点最重要，以及怎样才有用。",
    ),
}

_STEP_BY_STEP = {
    "answer": _row(
        'Let\'s think step by step, and end with a line of its own: "Answer: <answer>".',
        "Denken wir Schritt für Schritt, und am Ende steht eine eigene Zeile: „Antwort: <Antwort>“.",
        "Réfléchissons étape par étape, et terminons par une ligne à part : « Réponse : <réponse> ».",
        "Pensemos paso a paso, y terminemos con una línea aparte: «Respuesta: <respuesta>».",
        "让我们一步一步地思考，最后单独写一行：“答案：<答案>”。",
    ),
    "option": _row(
        'Let\'s think step by step, and end with a line of its own: "Answer: (<letter>)".',
        "Denken wir Schritt für Schritt, und am Ende steht eine eigene Zeile: „Antwort: (<Buchstabe>)“.",
        "Réfléchissons étape par étape, et terminons par une ligne à part : « Réponse : (<lettre>) ».",
        "Pensemos paso a paso, y terminemos con una línea aparte: «Respuesta: (<letra>)».",
        "让我们一步一步地思考，最后单独写一行：“答案：(<字母>)”。",
    ),
    "own": _row(
        "Let's think step by step, and then give the answer in the form that is asked for.",
        "Denken wir Schritt für Schritt, und dann folgt die Antwort in der verlangten Form.",
        "Réfléchissons étape par étape, puis donnons la réponse sous la forme demandée.",
        "Pensemos paso a paso, y luego demos la respuesta en la forma que se pide.",
        "让我们一步一步地思考，然后按要求的格式给出答案。",
    ),
    "examples": _row(
        "Let's think step by step, and then give the answer in the form that the examples show.",
        "Denken wir Schritt für Schritt, und dann folgt die Antwort in der Form, die die Beispiele zeigen.",
        "Réfléchissons étape par étape, puis donnons la réponse sous la forme que montrent les exemples.",
        "Pensemos paso a paso, y luego demos la respuesta en la forma que muestran los ejemplos.",
        "让我们一步一步地思考，然后按示例的格式给出答案。",
    ),
    "result": _row(
        "Let's think step by step, and then give the result.",
        "Denken wir Schritt für Schritt, und dann folgt das Ergebnis.",
        "Réfléchissons étape par étape, puis donnons le résultat.",
        "Pensemos paso a paso, y luego demos el resultado.",
        "让我们一步一步地思考，然后给出结果。",
    ),
}

_CONSTRAIN = {
    "answer": _row(
        'Give the work first, and end with a line of its own: "Answer: <answer>".',
        "Zeige zuerst den Weg, und schließe mit einer eigenen Zeile: „Antwort: <Antwort>“.",
        "Montre d'abord la démarche, et termine par une ligne à part : « Réponse : <réponse> ».",
        "Muestra primero el desarrollo, y termina con una línea aparte: «Respuesta: <respuesta>».",
        "请先写出过程，最后单独写一行：“答案：<答案>”。",
    ),
    "option": _row(
        'Give the reason first, and end with a line of its own: "Answer: (<letter>)".',
        "Nenne zuerst den Grund, und schließe mit einer eigenen Zeile: „Antwort: (<Buchstabe>)“.",
        "Donne d'abord la raison, et termine par une ligne à part : « Réponse : (<lettre>) ».",
        "Da primero la razón, y termina con una línea aparte: «Respuesta: (<letra>)».",
        "请先写出理由，最后单独写一行：“答案：(<字母>)”。",
    ),
    "cue": _row(
        "Reply with the answer alone.",
        "Antworte mit der Antwort allein.",
        "Réponds par la réponse seule.",
        "Responde con la respuesta sola.",
        "请直接回复答案本身。",
    ),
    "option cue": _row(
        "Reply with the letter of the right option alone.",
        "Antworte mit dem Buchstaben der richtigen Möglichkeit allein.",
        "Réponds par la lettre de la bonne option seule.",
        "Responde con la letra de la opción correcta sola.",
        "请直接回复正确选项的字母。",
    ),
    "summarization": _row(
        "Reply with the summary alone, as one paragraph of plain text.",
        "Antworte mit der Zusammenfassung allein, als ein Absatz reiner Text.",
        "Réponds par le résumé seul, en un paragraphe de texte simple.",
        "Responde con el resumen solo, en un párrafo de texto simple.",
        "请直接回复摘要本身，写成一段纯文本。",
    ),
    "translation": _row(
        "Reply with the translation alone, as plain text.",
        "Antworte mit der Übersetzung allein, als reiner Text.",
        "Réponds par la traduction seule, en texte simple.",
        "Responde con la traducción sola, en texto simple.",
        "请直接回复译文本身，使用纯文本。",
    ),
    "code_generation": _row(
        "Reply with one fenced code block that holds all of the code.",
        "Antworte mit einem einzigen umzäunten Codeblock, der den ganzen Code enthält.",
        "Réponds par un bloc de code délimité qui contient tout le code.",
        "Responde con un bloque de código delimitado que contenga todo el código.",
        "请用一个代码块回复，其中包含全部代码。",
    ),
    "general": _row(
        "Reply with the response itself, and leave out introductions and closing remarks.",
        "Antworte mit der Sache selbst, und lass Einleitung und Schlussbemerkung weg.",
        "Réponds par le contenu même, en laissant de côté introduction et conclusion.",
        "Responde con el contenido mismo, y deja fuera la introducción y el cierre.",
        "请直接回复内容本身，省去开场白和结束语。",
    ),
}

WORDINGS: Mapping[str, Mapping[str, Row]] = MappingProxyType(
    {
        "clarify": _CLARIFY,
        "expand": _EXPAND,
        "step_by_step": _STEP_BY_STEP,
        "verbose": {
            "any": _row(
                "Answer in detail: say what matters, explain why, and illustrate it.",
                "Antworte ausführlich: sag, worauf es ankommt, erkläre, warum, und veranschauliche es.",
                "Réponds en détail : dis ce qui compte, explique pourquoi et illustre-le.",
                "Responde en detalle: di lo que importa, explica por qué e ilústralo.",
                "请详细回答：说明要点，解释原因，并加以说明。",
            )
        },
        "constrain": _CONSTRAIN,
        "concise": {
            "any": _row(
                "Keep the answer as short as it can be with all the information that is needed.",
                "Halte die Antwort so kurz, wie es mit allen nötigen Angaben geht.",
                "Garde la réponse aussi courte que possible, avec toute l'information nécessaire.",
                "Haz la respuesta tan corta como sea posible, con toda la información necesaria.",
                "请在保留全部必要信息的前提下，让答案尽可能简短。",
            )
        },
        "exemplify": {
            "any": _row(
                "Examples with their answers come first; the request follows them.",
                "Zuerst kommen Beispiele mit ihren Antworten; darauf folgt die Anfrage.",
                "D'abord viennent des exemples avec leurs réponses ; la demande les suit.",
                "Primero van ejemplos con sus respuestas; después sigue la petición.",
                "先给出带答案的示例，随后是请求。",
            )
        },
    }
)
OWN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        strategy: tuple(text for row in variants.values() for text in row.values())
        for strategy, variants in WORDINGS.items()
    }
)
EVERY = frozenset(text for texts in OWN.values() for text in texts)
LONGEST = max(map(len, EVERY))
