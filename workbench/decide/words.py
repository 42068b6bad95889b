"""Words that count in a prompt, in English, German, French, Spanish and Chinese: negations, numbers, and ordinary ones.

Plain tables for decide/invariants.py, layout.py, phrases.py and clarity.py. A word that is missing costs a little
caution, or protects a little less: none of them is a claim about a language.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Language = Literal["en", "de", "fr", "es", "zh"]


def word_set(words: str) -> frozenset[str]:
    """The words of a text in which spaces stand between them."""
    return frozenset(words.split())


def _senses(*rows: str) -> Mapping[str, str]:
    """Each word of a row -> its first word, which stands for all of them."""
    return MappingProxyType({word: row.split()[0] for row in rows for word in row.split()})


# Words that deny, and those that limit like a denial. In a row they mean the same.
NEGATIONS = _senses(
    "not cannot dont doesnt didnt isnt arent wasnt werent wont wouldnt shouldnt couldnt cant hasnt havent hadnt",
    "no", "non", "never", "without w/o", "none", "nobody", "nothing", "nowhere", "neither", "nor", "unless",
    "except", "excluding", "exclude", "avoid", "only", "hardly", "barely", "scarcely", "rarely", "seldom",
    "nicht", "nichts", "kein keine keinen keinem keiner keines", "nie niemals", "niemand niemanden niemandem",
    "nirgends nirgendwo", "ohne", "weder", "außer", "nur", "kaum",
    "ne", "pas", "sans", "jamais", "rien", "aucun aucune", "ni", "sauf", "nul nulle", "seulement uniquement",
    "nunca", "sin", "jamás", "nada", "nadie", "ningún ninguno ninguna", "tampoco", "excepto", "salvo", "solo sólo",
    "solamente", "únicamente",
)  # fmt: skip

NUMBERS = word_set(
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands million "
    "millions billion billions dozen dozens half twice thrice double triple quarter third thirds zero "
    "zwei drei vier fünf sechs sieben acht neun zehn elf zwölf zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig "
    "neunzig hundert tausend million millionen milliarde milliarden dutzend halb halbe doppelt null "
    "deux trois quatre cinq sept huit neuf dix onze douze treize quatorze quinze seize vingt trente quarante cinquante "
    "soixante cent cents mille milliard milliards douzaine demi demie moitié zéro "
    "dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince veinte treinta cuarenta cincuenta "
    "sesenta setenta ochenta noventa cien ciento mil millón millones docena medio media mitad doble cero"
)

# With a capital in the middle of a sentence, and still no names.
UNNAMED = word_set(
    "i i'm i'd i've i'll i’m i’d i’ve i’ll ok asap fyi btw pls plz "
    "sie ihnen ihr ihre ihren ihrem ihrer ihres tatsache zeitpunkt fall voraus dank"
)

# With a capital at the beginning of a sentence, no names: a rewriting may drop them, or begin with them.
ORDINARY = UNNAMED | word_set(
    "a an the this that these those it its he she they we you your our my their his her there here "
    "who what which when where why how whose whom if because since although though while whether as "
    "and or but so then thus therefore hence also however moreover furthermore finally first firstly second secondly "
    "next last now please kindly pls plz thanks thank hello hi hey dear well just "
    "in on at by for from to of with about after before during under over between into near until due owing despite "
    "prior subsequent subsequently basically based given using use each every all any some most many much more other "
    "both either one another such be is are was were am been being do does did doing done have has had having can "
    "could will would shall should may might must let need make making take get keep put set try start begin end come "
    "go say tell ask answer reply respond give provide state show explain describe discuss define outline "
    "elaborate clarify compare contrast analyze analyse evaluate assess examine explore consider assume suppose "
    "imagine identify determine find choose select pick decide classify categorize categorise label list name write "
    "compose draft create generate produce build design develop implement code program fix correct edit improve "
    "rewrite rephrase paraphrase simplify shorten expand summarize summarise translate convert transform change "
    "replace add remove delete include calculate compute solve prove derive estimate count sort order arrange rank "
    "match complete continue fill follow read review check verify test return print output format present propose "
    "suggest recommend advise help want would like wondering wonder appreciate instruction instructions task prompt "
    "question text note remember ensure specifically thx abt cuz approx approximately through "
    "der die das den dem des ein eine einen einem einer eines und oder aber wenn weil dass ob als wie was wer wo wann "
    "warum welche welcher welches wieso in im an am auf aus bei mit nach von vom vor zu zum zur für über unter durch "
    "ist sind war hat haben kann können könnte könntest soll sollte muss bitte danke vielen hallo gib gebe geben sie "
    "schreibe schreib schreiben erkläre erklär erklären beschreibe beschreiben nenne nennen fasse fassen übersetze "
    "übersetzen antworte antworten beantworte beantworten berechne berechnen bestimme finde finden zeige zeigen "
    "erstelle erstellen liste vergleiche vergleichen verwende aufgrund trotz jetzt "
    "le la les un une des du de et ou mais si car que qui quoi quel quelle quels quelles où quand comment pourquoi "
    "combien il elle on nous vous ils elles ce cet cette ces mon votre notre en dans sur sous avec pour par chez est "
    "sont écris écrivez écrire explique expliquez expliquer décris décrivez décrire donne donnez donner résume résumez "
    "résumer traduis traduisez traduire réponds répondez répondre calcule calculez calculer trouve trouvez trouver "
    "merci bonjour s'il s’il afin dans actuellement parce "
    "el los las una unos unas y o pero porque cuando como cómo cuál cuáles qué quién dónde cuándo cuánto cuántos por "
    "para con sobre es son está están escribe escriba escribir explica explique explicar describe describa describir "
    "da dé dar resume resuma resumir traduce traduzca traducir responde responda responder calcula calcule calcular "
    "encuentra encuentre encontrar haz haga gracias muchas hola debido aunque"
)

# Verbs that tell to do something, as they begin a sentence.
COMMANDS = word_set(
    "act add analyse analyze answer arrange assess assume brainstorm build calculate categorise categorize change "
    "check choose cite clarify classify come compare complete compose compute consider continue contrast convert "
    "correct count create critique debug decide define derive describe design determine develop discuss distinguish "
    "draft draw edit elaborate estimate evaluate examine expand explain extract fill find finish fix follow format "
    "formulate generate give guess help highlight identify imagine implement improve infer interpret invent label "
    "let's let list make match modify name offer optimize order organize outline paraphrase perform plan play predict "
    "prepare present pretend produce program proofread propose prove provide rank rate read recommend refactor "
    "rephrase replace respond reverse review revise rewrite role say select show simplify simulate sketch solve sort "
    "split state suggest summarise summarize suppose take tell test think transform translate try turn use verify "
    "write analysiere antworte beantworte begründe berechne beschreibe bestimme beurteile bewerte entwickle entwirf "
    "erkläre erläutere ermittle erstelle erzähle fasse finde formuliere führe gib hilf korrigiere liste löse nenne "
    "ordne programmiere prüfe rechne sag schreib schreibe sortiere suche übersetze untersuche verbessere vergleiche "
    "verfasse wähle zähle zeige zeichne aide calcule choisis classe complète corrige crée décris détermine développe "
    "dis donne écris énumère évalue explique fais identifie montre nomme raconte rédige réponds résous résume traduis "
    "trouve vérifie aidez analysez calculez comparez corrigez créez décrivez donnez écrivez expliquez faites listez "
    "proposez rédigez répondez résumez traduisez trouvez analiza ayuda calcula clasifica compara completa crea cuenta "
    "da desarrolla determina di dime elige encuentra enumera escribe evalúa explica genera haz identifica imagina "
    "lista menciona muestra nombra ordena propón proporciona redacta responde resuelve resume sugiere traduce"
)

# Between two points or with a stroke, and still neither an address nor a path.
SHORT_FORMS = word_set(
    "b/c w/o w/ and/or he/she his/her e.g i.e a.m p.m u.s z.b d.h u.a o.ä p.ex p.ej und/oder et/ou y/o"
)

# What only this language has, of the words that every text of some length has.
_COMMON: Mapping[Language, frozenset[str]] = MappingProxyType(
    {
        "en": word_set(
            "the of and is are to what which this that these with for from following your you how why who it be by "
            "can could would should please write explain give list answer question translate summarize my i does"
        ),
        "de": word_set(
            "der das den dem des ein eine einen einem einer und oder ist sind nicht mit für auf von zu zum zur im wie "
            "wer warum welche welcher welches sich auch wird werden kann können ich du sie mir bitte folgenden "
            "fasse schreibe schreib erkläre nenne übersetze beantworte berechne beschreibe zusammen dass aus bei über "
            "viele"
        ),
        "fr": word_set(
            "le la les un une des du et ou est sont que qui quel quelle quels quelles pour dans avec sur par au aux ce "
            "cette ces vous nous je tu il elle comment pourquoi combien suivant suivante écris écrivez explique "
            "expliquez donne donnez résume résumez traduis traduisez réponds répondez calcule texte plaît moi"
        ),
        "es": word_set(
            "el los las un una unos unas y o es son que qué quién cuál cuáles cómo por para con en del al se su lo "
            "cuántos cuántas cuánto siguiente siguientes escribe explica describe da resume traduce responde calcula "
            "texto favor me mi pregunta"
        ),
    }
)
LOOKED_AT = 600  # characters at the beginning from which the language is told


def language(text: str) -> Language:
    """The language in which a prompt speaks to its reader; "en" unless another one is clear.

    Clear is: two common words of that language, three times as many as of English, more than of any other, and no more
    English ones before the first colon, where material may begin; for Chinese: half of the letters, and no Japanese or
    Korean ones. Read are the first LOOKED_AT characters.
    """
    start = text[:LOOKED_AT]
    han = sum("\u3400" <= c <= "\u9fff" for c in start) if not start.isascii() else 0
    if han and 2 * han >= sum(map(str.isalpha, start)):
        return "en" if any("\u3040" <= c <= "\u30ff" or "\uac00" <= c <= "\ud7af" for c in start) else "zh"
    hits = _hits(start)
    best = max(hits, key=lambda name: hits[name])
    rest = max(count for name, count in hits.items() if name not in (best, "en"))
    if best == "en" or hits[best] < max(2, 3 * hits["en"]) or hits[best] <= rest:
        return "en"
    opening = _hits(start.partition(":")[0])
    return "en" if opening["en"] > opening[best] else best


def _hits(text: str) -> dict[Language, int]:
    words = [w.strip(".,;:!?¿¡\"'()[]«»„“”") for w in text.lower().replace("'", " ").replace("’", " ").split()]
    return {name: sum(word in common for word in words) for name, common in _COMMON.items()}
