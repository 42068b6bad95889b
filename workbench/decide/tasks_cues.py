r"""The words that speak for a task type, in English, German, French, Spanish and Chinese.

A rule is found by its first word, so that a text is read once whatever the number of rules: `triggers` are such words
in lower case, `rest` is a pattern for what must follow at once. `beside` is the share of the weight that is left where
no command begins: 1 for words that speak anywhere, VERB for verbs that also occur in prose, 0 for words that mean
something else there. Chinese writes no spaces: its rules are phrases without triggers.

Weights are log-odds (see decide/tasks.py): 1 is a hint, 2 names the task, 3 and more can hardly be meant otherwise.
They are judgements, not fits; the prompts that they were tried on are named in docs/reference/tasks.md.

Every repetition is bounded and patterns are tried at trigger words only, so that time is linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

VERB = 0.5


@dataclass(frozen=True, slots=True)
class Rule:
    """What is looked for, and the task that it speaks for. Without triggers, `rest` is searched in the whole text."""

    task: str
    name: str
    weight: float
    beside: float
    triggers: tuple[str, ...]
    rest: re.Pattern[str]


_Row = tuple[str, float, float, str, str]


def _word(name: str, weight: float, triggers: str, rest: str = "") -> _Row:
    return name, weight, 1.0, triggers, rest


def _verb(name: str, weight: float, triggers: str, rest: str = "") -> _Row:
    return name, weight, VERB, triggers, rest


def _led(name: str, weight: float, triggers: str, rest: str = "") -> _Row:
    return name, weight, 0.0, triggers, rest


def _phrase(name: str, weight: float, pattern: str) -> _Row:
    return name, weight, 1.0, "", pattern


# Up to five words between a verb and its object, none of which opens another phrase.
_GAP = (
    r"(?:[ \t]{1,3}(?!(?:about|of|for|that|which|with|on|and|über|von|mit|für|sur|de|pour|sobre|con|para)\b)"
    r"[^\s.!?:;]{1,30}){0,5}?[ \t]{1,3}\(?"
)
_LANGUAGE = (
    r" (?:dem |l['’]|el |le |plain |simple |simplified |brazilian )?(?:"
    r"english|german|french|spanish|chinese|mandarin|japanese|italian|portuguese|russian|arabic|hindi|korean|dutch"
    r"|swedish|polish|turkish|greek|hebrew|latin|czech|danish|finnish|norwegian|ukrainian|vietnamese|thai"
    r"|(?:englisch|deutsch|französisch|spanisch|chinesisch|italienisch|russisch|japanisch|polnisch|türkisch)(?:en?)?"
    r"|anglais|allemand|français|espagnol|chinois|italien|russe|japonais|portugais"
    r"|ingl[eé]s|alem[aá]n|franc[eé]s|español|chino|italiano|ruso|japon[eé]s|portugu[eé]s)\b"
)
_PROGRAM = (
    r"(?:functions?|methods?|programs?|class(?:es)?|decorators?|subroutines?|code|modules?|regex(?:es)?|sql|html|css"
    r"|regular expressions?|quer(?:y|ies)|api|endpoints?|algorithms?|unit tests?|test cases|parsers?|macros?|web ?page"
    r"|scripts?(?![^.\n]{0,40}\b(?:video|podcast|scene|show|play|movie|film|episode|advert)\b)"
    r"|makefile|dockerfile|funktion(?:en)?|methoden?|skripte?|programme?|klassen?|abfragen?|algorithmus"
    r"|fonctions?|méthodes?|requêtes?|algorithmes?|funci[oó]n(?:es)?|m[eé]todos?|programas?|clases?|consultas?"
    r"|algoritmos?|c[oó]digo)\b"
)
_PASSAGE = r"(?:passage|text|article|context|paragraph|story|document|content)\b"
_TEXT = (
    r"(?:essay|story|stories|poems?|haikus?|limericks?|sonnets?|songs?|lyrics|rap|letters?|e-?mails?|tweets?|speech"
    r"|posts?|articles?|captions?|slogans?|taglines?|jokes?|reviews?|screenplay|dialogues?|monologue|soliloquy"
    r"|messages?|advertisement|ads?|toast|biography|bio|resume|cv|announcement|descriptions?|novel|chapter|paragraphs?"
    r"|newsletter|press release|proposal|plot|scene|invitation|aufsatz|geschichten?|gedichte?|liedtext|brief|rede"
    r"|beitrag|märchen|witze?|essai|histoires?|poèmes?|chansons?|lettre|courriel|discours|conte|blagues?|ensayo"
    r"|cuentos?|historias?|poemas?|canci[oó]n|carta|correo|discurso|chistes?)\b"
)
_FEW = r" (?:(?:at )?most |more than |about |fewer than )?(?:\d{1,3}|two|three|four|five|ten|a few|zwei|drei|wenigen)"
# A question mark ends the sentence; nothing to go back to, so possessive.
_ASKED = r"(?:[^.?!\n]{1,200}+\.(?=\S)){0,3}+[^.?!\n]{1,200}+\?"

_ROWS: dict[str, tuple[_Row, ...]] = {
    "summarization": (
        _verb("summarize", 3.0, "summarize summarise summarizing summarising"),
        _verb("summarize", 3.0, "zusammenfassen résumer résume résumez synthétise synthétisez"),
        _verb("summarize", 3.0, "resumir resúmelo resúmeme resuma resumid sintetiza"),
        _verb(
            "summarize",
            3.0,
            "resume",
            r"(?: (?:el|l[aeo]s?|est[aeo]s?|ce|cet|cette|brevemente|en \w{2,9} (?:ph|f)rases?)\b| ?:)",
        ),
        _verb("summarize", 3.0, "fasse fass fassen", r"[^.!?]{1,200}?\bzusammen\b"),
        _verb("summarize", 3.0, "recap"),
        _verb("summarize", 3.0, "sum", r"[^.!?\n]{0,60}?\bup\b"),
        _verb("shorten", 2.0, "condense abridge shorten digest kürze raccourcis acorta"),
        _verb("shorten", 2.0, "boil", r"[^.!?\n]{0,60}?\bdown\b"),
        _led("summary", 2.0, "summary synopsis"),
        _word("summary", 2.0, "summary summaries synopsis", r" (?:of|for (?:the|this))\b"),
        _word("summary", 2.0, "zusammenfassung kurzfassung inhaltsangabe résumé synthèse resumen síntesis tldr"),
        _word("summary", 1.0, "summary summaries summarization synopsis"),
        _word("summary", 2.5, "tl", r" ?; ?dr\b"),
        _word("key points", 1.5, "key main central essential", r" (?:points?|ideas?|takeaways?|findings|facts)\b"),
        _word("key points", 1.5, "most", r" important (?:points?|facts?|information|things)\b"),
        _word("key points", 1.5, "short shorter brief", r" (?:version|overview|account|abstract)\b"),
        _word("key points", 1.5, "gist nutshell takeaways kernaussagen hauptaussagen"),
        _word("in few words", 1.0, "in", r" (?:one|a single)(?: short)? (?:sentence|paragraph)\b"),
        _word("in few words", 1.0, "in at no under within", _FEW + r" (?:short )?(?:words|sentences|sätzen|wörtern)\b"),
        _word("in few words", 1.0, "in", r" einem satz\b"),
        _word("in few words", 1.0, "en", r" (?:une|deux|trois|quelques|una|dos|tres|pocas) (?:ph|f)rases?\b"),
    ),
    "translation": (
        _verb("translate", 3.0, "translate translating übersetze übersetz übersetzt übersetzen uebersetze"),
        _verb("translate", 3.0, "traduis traduisez traduire traduce traduzca traduzcan traducir traducid"),
        _word("translation", 1.5, "translation translations übersetzung traduction traducción traduccion"),
        _word("into a language", 1.5, "into ins", _LANGUAGE),
        _word("into a language", 1.5, "auf en al vers", _LANGUAGE + r"(?= ?(?:[.:!\n]|\Z))"),
        _word("between languages", 1.5, "from vom aus de del", _LANGUAGE + r" (?:in)?(?:to|ins|en|vers|al)\b"),
        _word("in a language", 1.0, "in", _LANGUAGE + r"(?= ?(?:[.:?!\n]|\Z))"),
        _verb("translate", 2.5, "render put express", r"[^.!?\n]{0,80}?\bin(?:to)?" + _LANGUAGE),
        _word("translation", 1.5, "english german french spanish chinese", r" (?:version|rendering|equivalent)\b"),
        _word("between languages", 1.5, "english german french spanish chinese", r" ?(?:(?:in)?to|->|→)" + _LANGUAGE),
        _word(
            "say in a language",
            2.5,
            "how",
            r" (?:do|would|can|to)(?: \w{1,3})? (?:say|write)\b[^\n]{1,150}?\bin" + _LANGUAGE,
        ),
        _word("say in a language", 2.5, "what", r"(?:'s| is)\b[^\n]{1,100}?\bin" + _LANGUAGE),
        _word("say in a language", 2.5, "was wie", r" (?:heißt|heisst|sagt man)\b[^\n]{1,150}?\bauf" + _LANGUAGE),
        _word("say in a language", 2.5, "comment cómo como", r" (?:dit-on|se dice|se diría)\b"),
    ),
    "question_answering": (
        _led("question word", 1.0, "who whom whose where which what why"),
        _led("question word", 1.0, "wer wen wem wann wo wohin woher warum wieso weshalb welche welcher welches"),
        _led("question word", 1.0, "was", r" (?:ist|sind|war|waren|bedeutet|macht|passiert|hat|kann)\b"),
        _led("question word", 1.0, "qui où pourquoi quel quelle quels quelles"),
        _led("question word", 1.0, "quién quiénes qué dónde cuándo cuál cuáles"),
        _led(
            "question word",
            1.0,
            "in at on by for to from à en dans con de",
            r" (?:wh(?:ich|at|om)|quel(?:le)?s?|qu[eé])\b",
        ),
        _word("question word", 0.7, "who whose when where which what why que quand qu por quien cuando cual", _ASKED),
        _led("how many", 1.0, "how", r" (?:many|much|long|far|old|tall|big|high|large|often|fast|deep)\b"),
        _led("how many", 1.0, "wie", r" (?:viele?n?|lange|weit|alt|groß|hoch|oft)\b"),
        _led("how many", 1.0, "wieviel wieviele combien cuánto cuánta cuántos cuántas cuanto cuantos"),
        _led("yes or no", 0.7, "is are was were does did has have ist sind hat", _ASKED),
        _led("yes or no", 0.7, "est", r"-ce qu"),
        _verb("answer the question", 2.0, "answer answering", _GAP + r"questions?\b"),
        _verb("answer the question", 2.0, "beantworte beantworten", r"[^.!?]{0,80}?\bfragen?\b"),
        _verb("answer the question", 2.0, "réponds répondez répondre", r"[^.!?]{0,80}?\bquestions?\b"),
        _verb("answer the question", 2.0, "responde contesta", r"[^.!?]{0,80}?\bpreguntas?\b"),
        _word("following question", 1.5, "following", r" (?:[\w-]{2,20} ){0,2}questions?\b"),
        _word("choose an option", 1.5, "multiple", r"[- ]choice\b"),
        _word("choose an option", 1.0, "correct right best", r" (?:answer|letter|option|choice|alternative)\b"),
        _word(
            "given passage",
            1.5,
            "based according",
            r" (?:up)?(?:on|to) (?:the |this |its )(?:\w{2,12} ){0,3}?" + _PASSAGE,
        ),
        _word("given passage", 1.5, "comprehension"),
    ),
    "code_generation": (
        _verb("write code", 3.0, "write implement create develop generate code", _GAP + _PROGRAM),
        _verb("write code", 3.0, "build give provide complete program", _GAP + _PROGRAM),
        _verb("write code", 3.0, "schreibe schreib schreiben implementiere erstelle programmiere", _GAP + _PROGRAM),
        _verb("write code", 3.0, "écris écrivez écrire implémente implémentez crée créez développe", _GAP + _PROGRAM),
        _verb("write code", 3.0, "escribe escriba escribir implementa implemente crea cree", _GAP + _PROGRAM),
        _verb(
            "repair code", 2.5, "debug refactor optimize fix", _GAP + r"(?:code|function|script|program|class|bug)\b"
        ),
        _word(
            "function that",
            1.5,
            "function method program",
            r" (?:named |called )?[`\w()]{0,40} ?(?:that|which|to|takes|returns?)\b",
        ),
        _word("function that", 1.5, "funktion fonction función", r",? ?[`\w()]{0,40} ?(?:die|qui|que)\b"),
        _word(
            "programming language",
            1.0,
            "python python3 javascript typescript java kotlin golang php perl haskell fortran",
        ),
        _word(
            "programming language",
            1.0,
            "sql sqlite postgresql mysql bash powershell html css numpy pandas django matlab",
        ),
        _word("programming language", 1.0, "c", r"(?:\+\+|#)"),
        _word("unit tests", 1.0, "unit", r"[- ]tests?\b"),
        _word("returns a value", 0.7, "return returns", r" (?:the|a|an|true|false|none|null|-1)\b"),
        _word("program text", 1.0, "executable docstring stdin stdout leetcode"),
    ),
    "reasoning": (
        _word("step by step", 2.0, "step", r"[- ]by[- ]step\b(?! (?:guide|instruction|tutorial|recipe|plan))"),
        _word("step by step", 2.0, "schritt étape etape paso", r" (?:für|par|a) (?:schritt|étape|etape|paso)\b"),
        _word("show the reasoning", 1.0, "reasoning begründe raisonnement razonamiento"),
        _led("show the reasoning", 1.0, "reason raisonne razona"),
        _word("logic", 2.0, "logic logical logically boolean logik logisch logique lógica"),
        _word("deduction", 2.0, "deduce deducing deductive deductively premises syllogism"),
        _word("deduction", 2.0, "logical", r" deductions?\b"),
        _word("puzzle", 2.0, "puzzle puzzles riddle riddles brainteaser rätsel énigme acertijo"),
        _word("valid argument", 1.5, "valid invalid validity", r" (?:argument|or invalid|conclusion)\w{0,2}\b"),
        _word("tells the truth", 1.5, "tells tell", r" the truth\b"),
        _led("infer", 1.5, "infer deduce"),
        _led("determine", 0.7, "determine ermittle détermine determina"),
        _verb("solve", 2.0, "solve solving löse résous résolvez résoudre resuelve resuelva"),
        _verb("calculate", 2.0, "calculate compute berechne berechnen calculez calculer calcula calcular"),
        _led("calculate", 2.0, "evaluate calcule", r"(?! (?:if|whether|how))"),
        _led("prove", 2.0, "prove beweise démontre démontrez demuestra"),
        _word("mathematics", 1.5, "mathematical arithmetic equation equations integral derivative probability theorem"),
        _word("mathematics", 1.5, "gleichung équation ecuación wahrscheinlichkeit probabilité probabilidad"),
        _word("number as answer", 1.5, "as", r" (?:one|a|an) (?:\w{4,10} )?(?:number|integer|fraction)\b"),
    ),
    "general": (
        _verb("write a text", 2.5, "write compose draft create generate make", _GAP + _TEXT),
        _verb("write a text", 2.5, "give tell need come craft prepare", _GAP + _TEXT),
        _verb("write a text", 2.5, "schreibe schreib schreiben verfasse erzähl erzähle erstelle", _GAP + _TEXT),
        _verb("write a text", 2.5, "écris écrivez écrire rédige rédigez raconte", _GAP + _TEXT),
        _verb("write a text", 2.5, "escribe escriba escribir redacta cuenta", _GAP + _TEXT),
        _verb("ideas", 2.0, "brainstorm suggest recommend propose imagine invent"),
        _verb("ideas", 2.0, "schlage empfiehl suggère recommande sugiere recomienda"),
        _word("ideas", 1.5, "ideas suggestions recommendations tips advice ideen tipps vorschläge"),
        _word("ideas", 1.5, "idées conseils consejos sugerencias"),
        _led("how to", 1.5, "how", r" (?:can|could|do|does|did|should|would|might|may|to)\b"),
        _led("how to", 1.5, "wie comment cómo como", r" (?:kann|soll|sollte|könnte|puis|faire|dois|puedo|hago|debo)\b"),
        _led("open question", 1.5, "what", r" (?:are|is|were|if) (?:some|i|we|you)\b"),
        _led("advice", 1.5, "should", r" (?:i|we)\b"),
        _word("advice", 1.0, "help", r" me\b"),
        _led("list", 1.5, "list name liste nenne énumère enumera"),
        _word("recipe or journey", 1.5, "recipe recipes itinerary rezept recette receta"),
        _led("play a role", 1.5, "pretend roleplay act"),
        _verb("rework a text", 2.0, "rewrite rephrase paraphrase proofread reformulate"),
        _verb("rework a text", 2.0, "korrigiere reformule corrige reescribe"),
        _verb("classify", 2.0, "classify categorize categorise klassifiziere clasifica"),
        _led("classify", 2.0, "label classe"),
        _led("explain", 1.0, "explain describe discuss compare define erkläre beschreibe explique décris explica"),
        _led("plan", 1.5, "plan design extract identify"),
        _led("greeting", 1.0, "hello hi hey hallo bonjour salut hola"),
    ),
}

_CHINESE: dict[str, tuple[_Row, ...]] = {
    "summarization": (
        _phrase("summarize", 3.0, "总结|總結|概括|归纳|歸納|摘要|概述|缩写"),
        _phrase("key points", 1.5, "要点|要點|主要内容|主旨|中心思想"),
    ),
    "translation": (
        _phrase("translate", 3.0, "翻译|翻譯|译成|譯成|译为|譯為"),
        _phrase("say in a language", 2.5, "用[^。！？\n]{1,4}[语語文]怎[么麼][说說]"),
    ),
    "question_answering": (
        _phrase("question word", 1.0, "什么|什麼|谁|誰|哪|何时|何時|为什么|為什麼|是否|吗|嗎"),
        _phrase("how many", 1.0, "多少|多大|多长|多長|多远|多遠|多高|多久|几[个個年天]"),
        _phrase("answer the question", 2.0, "回答[^。！？\n]{0,12}[问問][题題]"),
        _phrase("choose an option", 1.5, "选择题|選擇題|正确答案|正確答案|下列哪|以下哪"),
    ),
    "code_generation": (
        _phrase(
            "write code",
            3.0,
            "(?:写|寫|实现|實現|创建|創建|生成)[^。！？\n]{0,20}?(?:函数|函數|代码|代碼|程序|程式|脚本|腳本|算法)",
        ),
    ),
    "reasoning": (
        _phrase("step by step", 2.0, "一步一步|一步步|逐步"),
        _phrase("show the reasoning", 1.0, "推理|推断|推斷|推导"),
        _phrase("calculate", 2.0, "计算|計算|求解|解方程|证明|證明"),
        _phrase("logic", 2.0, "逻辑|邏輯|谜题|謎題"),
    ),
    "general": (
        _phrase(
            "write a text",
            2.5,
            "(?:写|寫|创作|創作)[^。！？\n]{0,20}?(?:诗|詩|故事|文章|作文|信|邮件|郵件|演讲|演講|歌|小说|笑话)",
        ),
        _phrase("ideas", 1.5, "建议|建議|推荐|推薦|想法"),
        _phrase("how to", 1.5, "怎[么麼](?:办|辦|做)|怎样|怎樣|如何"),
    ),
}

RULES = tuple(
    Rule(task, name, weight, beside, tuple(triggers.split()), re.compile(rest, re.I))
    for table in (_ROWS, _CHINESE)
    for task, rows in table.items()
    for name, weight, beside, triggers, rest in rows
)
