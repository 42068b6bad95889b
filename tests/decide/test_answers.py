"""What counts as the answer of a free response, and when two answers are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decide.answers import (
    ANSWER_KINDS,
    MAX_DIGITS,
    TAIL,
    AnswerKind,
    agrees,
    extract,
    infer_kind,
    normalise,
    options_in,
)

ABCD = ("A", "B", "C", "D")
LETTERED_PROMPT = "Question:\nWhich?\nOptions:\nA. red\nB. blue\nC. green\nD. grey\nAnswer: Let's think."
TEXT_WITH_ANYTHING = st.text(st.characters(codec=None), max_size=300)
FRAGMENTS = st.sampled_from(
    [
        "the answer is ",
        "Answer: ",
        "A: ",
        "\\boxed{",
        "}",
        "(B)",
        "B",
        "12",
        "1,200.5",
        "#### ",
        "\n",
        ". ",
        "Yes",
        "not ",
        "<<2*3=6>>",
        "-",
        "/",
        "e9",
        "$",
        "%",
        "É",
        "\u037e",
        "\ufb03",
        "\ud83d",
        "\x00",
        "答案是",
        "（",
        "or ",
    ]
)
STITCHED = st.lists(FRAGMENTS, max_size=25).map("".join)


class TestNormalise:
    """A canonical form is one string per value."""

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("1,200.50", "1200.5"),
            ("$5", "5"),
            ("-$5", "-5"),
            ("$-5", "-5"),
            ("45.0", "45"),
            ("45.", "45"),
            (".5", "0.5"),
            ("007", "7"),
            ("+7", "7"),
            ("-0", "0"),
            ("-0.00", "0"),
            ("0e99999", None),  # the exponent itself is out of bounds
            ("0e99", "0"),
            ("1e5", "100000"),
            ("1.5E-3", "0.0015"),
            ("−8", "-8"),
            ("４２", "42"),
            ("50%", "50"),
            ("1.234", "1.234"),
        ],
    )
    def test_a_number_is_its_plain_decimal(self, value: str, expected: str | None) -> None:
        """Signs of money, grouping and needless zeros do not make another number."""
        assert normalise(value, "number") == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("1/2", "0.5"),
            ("7/20", "0.35"),
            ("4/2", "2"),
            ("2/6", "1/3"),
            ("-2/6", "-1/3"),
            ("0/7", "0"),
            ("1/0", None),
        ],
    )
    def test_a_fraction_is_a_decimal_when_that_ends_and_reduced_otherwise(
        self, value: str, expected: str | None
    ) -> None:
        """1/2 equals 0.5, and 2/6 equals 1/3, which no decimal does."""
        assert normalise(value, "number") == expected

    @pytest.mark.parametrize(
        "value",
        ["", ".", "-", "nan", "inf", "-Infinity", "1,2", "3,5", "--5", "5 apples", "1.2.3", "0x10", "٣"],
    )
    def test_what_is_not_a_number_has_no_form(self, value: str) -> None:
        """A decimal comma, words and the values that equal nothing are not numbers."""
        assert normalise(value, "number") is None

    @pytest.mark.parametrize(
        "value",
        [
            "1e999999999",
            "1e-999999999",
            "9" * 5000,
            "0." + "3" * 400,
            "1e200",
            "1/" + "3" * 40,
            "1e" + "9" * 90,
        ],
    )
    def test_a_number_without_bound_has_no_form(self, value: str) -> None:
        """Nothing is expanded beyond MAX_DIGITS, and no limit of the interpreter is met."""
        assert normalise(value, "number") is None

    @pytest.mark.parametrize("value", ["B", "b", "(B)", "b)", "B.", "**B**", " [B] ", "（Ｂ）", "B. Paris", "option b"])
    def test_a_choice_is_one_capital_letter(self, value: str) -> None:
        """Brackets, emphasis, case and the option's own text do not make another choice."""
        assert normalise(value, "choice") == "B"

    @pytest.mark.parametrize("value", ["", "BC", "é", "ß", "1", "Paris", "()", "B or C"])
    def test_what_is_not_one_letter_is_no_choice(self, value: str) -> None:
        """Words, digits and letters outside A to Z are not choices."""
        assert normalise(value, "choice") is None

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (" Yes! ", "yes"),
            ("**Not  Valid**", "not valid"),
            ("STRASSE", "strasse"),
            ("Straße", "strasse"),
            ("!!", None),
        ],
    )
    def test_a_label_is_folded_and_bare(self, value: str, expected: str | None) -> None:
        """Case, outer punctuation and white space do not make another label."""
        assert normalise(value, "label") == expected

    def test_a_text_keeps_its_inner_signs(self) -> None:
        """Outer quotes and final dots go, commas and brackets stay."""
        assert normalise(" “Monsters,\n Inc.” ", "text") == "monsters, inc"
        assert normalise("] ] >", "text") == "] ] >"
        assert normalise(" \n", "text") is None

    @pytest.mark.parametrize("kind", ["label", "text"])
    def test_composed_and_decomposed_letters_are_equal(self, kind: AnswerKind) -> None:
        """Two encodings of one word are one answer."""
        assert normalise("cafe\u0301", kind) == normalise("CAFÉ", kind) == "café"

    @given(value=TEXT_WITH_ANYTHING | STITCHED, kind=st.sampled_from(ANSWER_KINDS))
    def test_it_is_idempotent(self, value: str, kind: AnswerKind) -> None:
        """A canonical form is its own canonical form, and can always be stored."""
        once = normalise(value, kind)
        if once is not None:
            assert normalise(once, kind) == once
            assert "\x00" not in once
            once.encode("utf-8")

    @given(numerator=st.integers(-(10**12), 10**12), zeros=st.integers(0, 9))
    def test_trailing_zeros_never_matter(self, numerator: int, zeros: int) -> None:
        """A whole number is the same with and without decimals and grouping."""
        written = f"{numerator:,}." + "0" * zeros
        assert normalise(written, "number") == str(numerator)

    @pytest.mark.parametrize("kind", ["number", "choice"])
    def test_an_overlong_value_is_refused(self, kind: AnswerKind) -> None:
        """A megabyte is not read to find out that it is no number and no letter."""
        assert normalise("1" * 1_000_000, kind) is None


class TestExtractChoice:
    """The letter a response commits itself to."""

    @pytest.mark.parametrize(
        "response",
        [
            "C",
            "(c)",
            "**C**",
            "C. green",
            "C) green\n\nGrass is green.",
            "Option C",
            "\\boxed{C}",
            "$\\boxed{\\text{C}}$",
            "\\boxed{(C) green}",
            "The answer is (C).",
            "The answer is **C**.",
            "the answer is most likely to be option (C)",
            "The answer to this question is C",
            "Answer: (C)",
            "**Answer:** C",
            "### Final answer\n**C**",
            "A: (C)",
            "#### C",
            "Answer: C\n\nExplanation: A is wrong, and B is as well.",
            "The answer is C because (B) is too dark.",
            "The correct option is:\n\nC. green",
            "This leaves red and green. Therefore, option C is correct.",
            "So the colour asked for must be (C).",
            "C is the correct answer.",
            "The answer is not listed, but the closest one is (C).",
            "Leaves in summer are C. green.",
        ],
    )
    @pytest.mark.parametrize("options", [(), ABCD], ids=["unknown", "known"])
    def test_a_stated_letter_is_found(self, response: str, options: tuple[str, ...]) -> None:
        """It does not matter how the letter is dressed or what is explained after it."""
        assert extract(response, "choice", options=options) == "C"

    @pytest.mark.parametrize(
        "response",
        [
            "Die Antwort ist C.",
            "Die richtige Antwort lautet: C",
            "La réponse est (C).",
            "Réponse : C",
            "La respuesta es C",
            "A resposta é C",
            "La risposta corretta è C.",
            "答案是C。",
            "答案：C",
            "正确答案为（C）",
        ],
    )
    def test_other_languages_announce_it_too(self, response: str) -> None:
        """The cue table has a row per language."""
        assert extract(response, "choice") == "C"

    @pytest.mark.parametrize(
        "response",
        [
            "A long time ago, I was a child.",
            "I think that A is a letter",
            "The answer is A dog",
            "The answer is a small dog",
            "The answer is I think unclear",
            "Let us consider option A first. If A holds then",
            "(a) The pressure is 3. (b) The volume is",
            "a) The pressure is given by",
            "Let us compare them:\n\nA. red is warm",
            "the answer is not B",
            "I don't think the answer is (B).",
            "The answer is",
            "Answer:",
            "\\boxed{C",
            "I'm sorry, but I cannot answer this. (B)",
            "",
        ],
    )
    def test_what_is_not_stated_does_not_vote(self, response: str) -> None:
        """English words, denials, refusals and unfinished sentences are not answers."""
        assert extract(response, "choice", options=ABCD) is None

    @pytest.mark.parametrize(
        "response",
        ["The answer is (A) or (B).", "The answer is A, B, D.", "The answer is (B) and (C)", "\\boxed{A/B}"],
    )
    def test_two_letters_are_no_answer(self, response: str) -> None:
        """A response that names two options has not chosen."""
        assert extract(response, "choice", options=ABCD) is None

    def test_the_last_statement_wins(self) -> None:
        """A model may correct itself, and a denied letter is not a statement."""
        assert extract("The answer is A. Wait: the answer is D.", "choice") == "D"
        assert extract("The answer is D. The answer is not B.", "choice") == "D"
        assert extract("\\boxed{A}? No. The answer is B.", "choice") == "B"

    def test_a_letter_that_is_not_offered_is_passed_over(self) -> None:
        """With known options an impossible letter leaves the earlier statement standing."""
        assert extract("The answer is B. The answer is Z.", "choice", options=ABCD) == "B"

    @pytest.mark.parametrize(
        "continuation",
        [
            "\n\nQuestion: Which next?\nThe answer is (D).",
            "\n\nQ: Next?\nA: (D)",
            "\nNow, combining all the answers:\nA: D",
        ],
    )
    def test_a_further_question_is_not_this_one(self, continuation: str) -> None:
        """A model that goes on with another question has answered this one before."""
        assert extract("The answer is (B)." + continuation, "choice") == "B"

    def test_a_question_repeated_before_the_answer_is_read_over(self) -> None:
        """Only what follows a first statement can belong to another question."""
        assert extract("Question: Which?\nThe answer is (B).", "choice") == "B"
        assert extract("We restate it.\nQuestion: Which?\nThe answer is (B).", "choice") == "B"

    def test_no_response_is_no_answer(self) -> None:
        """A failed call has no text."""
        assert extract(None, "choice") is None


class TestExtractNumber:
    """The number a response gives as its result."""

    @pytest.mark.parametrize(
        "response",
        [
            "48",
            "**48**",
            "48 apples",
            "She has 48 apples.",
            "24 + 24 = 48",
            "A: 48",
            "#### 48",
            "\\boxed{48}",
            "\\boxed{x = 48\\text{ km}}",
            "The final answer is: \\boxed{{48}}.",
            "She sold 24*2=$<<24*2=48>>48 in all.\nA: 48",
            "The answer is 24 * 2 = 48.",
            "The answer is 48 because 24 * 2 = 48 and 1 + 1 = 2.",
            "The answer is that she sold 48 clips in 2 months.",
            "The answer is:\n\\[\n48\n\\]",
            "She sold 24 and then 24.\nTherefore, she sold 48.",
            "First 24.\nThen 24 again.\n\n48",
            "The answer is not 47. The answer is 48.",
            "Die Antwort ist 48 Euro.",
            "答案是48。",
            "The answer is ４８",
            "#### 1. Double it\n#### 2. Conclude\nAnswer: 48",
        ],
    )
    def test_a_stated_number_is_found(self, response: str) -> None:
        """Calculations, calculator marks, units and explanations do not hide the result."""
        assert extract(response, "number") == "48"

    @pytest.mark.parametrize(
        ("response", "expected"),
        [
            ("The answer is $1,200.50.", "1200.5"),
            ("The answer is 1{,}200", "1200"),
            ("The answer is \\$18.", "18"),
            ("\\boxed{\\frac{1}{2}}", "0.5"),
            ("\\boxed{-\\dfrac{2}{6}}", "-1/3"),
            ("A: -8", "-8"),
            ("A: −8", "-8"),
            ("The answer is 50%.", "50"),
            ("A: 1/5 pm", "0.2"),
            ("The answer is 1.234", "1.234"),
        ],
    )
    def test_it_is_given_in_canonical_form(self, response: str, expected: str) -> None:
        """Currency, grouping, fractions and signs are read as in a reference."""
        assert extract(response, "number") == expected

    @pytest.mark.parametrize(
        "response",
        [
            "She had 5 apples and then bought 3 and",
            "For the twelfth glass he pays 5 * 1/2 = 2.5.\nFor the thirteenth he pays 5 * 1",
            "the answer is not 41",
            "A: 10+John's age",
            "The answer is 3,5",
            "The answer is 1e999999999",
            "The answer is 1/0",
            "The answer is " + "3" * 4400,
            "I cannot answer that as of 2021.",
            "Steps:\n1. Add.\n2.",
            "",
        ],
    )
    def test_what_is_not_stated_does_not_vote(self, response: str) -> None:
        """A number on the way to a result is not the result."""
        assert extract(response, "number") is None


class TestExtractLabel:
    """The label a response decides for."""

    @pytest.mark.parametrize(
        "response",
        [
            "No",
            "**No.**",
            "No, because Jamey lies.",
            "So the answer is No.",
            'The answer is: "no".',
            "\\boxed{\\text{No}}",
            "We know that Jamey lies. So the answer is no, he does not.",
            "Step 1 holds.\n\nNo",
        ],
    )
    @pytest.mark.parametrize("options", [(), ("Yes", "No")], ids=["unknown", "known"])
    def test_a_stated_label_is_found(self, response: str, options: tuple[str, ...]) -> None:
        """The common labels are known without being listed."""
        assert extract(response, "label", options=options) == "no"

    def test_the_longest_matching_label_wins(self) -> None:
        """A label may begin with another one."""
        assert extract("The answer is not valid.", "label", options=("not valid", "not")) == "not valid"

    def test_a_label_inside_a_word_is_not_that_label(self) -> None:
        """Invalid is not valid."""
        options = ("valid", "invalid")
        assert extract("Therefore, the argument is invalid.", "label", options=options) == "invalid"
        assert extract("the answer is not valid", "label", options=options) is None

    @pytest.mark.parametrize(
        "response",
        ["Perhaps", "I'm sorry, I can't help with that.", "We know that Alice lies and that", "", "!"],
    )
    def test_what_is_not_stated_does_not_vote(self, response: str) -> None:
        """With known labels nothing else is a label."""
        assert extract(response, "label", options=("Yes", "No")) is None

    def test_an_unlisted_short_answer_is_a_label_when_labels_are_unknown(self) -> None:
        """Without a list any short stated value can be a label."""
        assert extract("The answer is Northern Ireland.", "label") == "northern ireland"


class TestExtractText:
    """The free text a response gives, or the whole response."""

    @pytest.mark.parametrize(
        ("response", "expected"),
        [
            ("We pop them. So the answer is ] ] >.", "] ] >"),
            ("\\boxed{New York City}\n\nIt is big.", "new york city"),
            ("Answer: Hello World\n\nBecause it is first.", "hello world"),
            ("costume  counterpart\noven", "costume counterpart oven"),
            ("The answer is simple.\n\nIt depends on you.", "the answer is simple. it depends on you"),
            (" ", None),
        ],
    )
    def test_a_text_is_what_is_announced_or_everything(self, response: str, expected: str | None) -> None:
        """Prose that happens to contain a cue in an earlier paragraph is taken whole."""
        assert extract(response, "text") == expected


class TestItemFormat:
    """What an item asks for is told from its format."""

    @pytest.mark.parametrize(
        ("reference", "prompt", "expected"),
        [
            ("16", "How much water?", "number"),
            ("-50", "((1 - 2)) =", "number"),
            ("(B)", "", "choice"),
            ("C", LETTERED_PROMPT, "choice"),
            ("C. green", LETTERED_PROMPT, "choice"),
            ("2", LETTERED_PROMPT, "choice"),  # the index of an option
            ("1990", LETTERED_PROMPT, "number"),
            ("Monsters, Inc", LETTERED_PROMPT, "text"),
            ("False", "not ( True ) is", "label"),
            ("Maybe", "Options:\n- Yes\n- Maybe", "label"),
            ("] ] >", "Complete the rest.", "text"),
            ("", "", "text"),
            (None, LETTERED_PROMPT, "choice"),
            (None, "Options:\n- Yes\n- No", "label"),
            (None, "How many apples?", "number"),
            (None, "Write a poem.", "text"),
        ],
    )
    def test_the_kind_is_inferred(self, reference: str | None, prompt: str, expected: AnswerKind) -> None:
        """Letters, numbers, listed labels, then text."""
        assert infer_kind(reference, prompt) == expected

    @pytest.mark.parametrize(
        ("prompt", "expected"),
        [
            (LETTERED_PROMPT, ABCD),
            ("Options:\n(A) x\n(B) y\nA: Let's think step by step.", ("A", "B")),
            ("A) x\nB) y\nC) z", ("A", "B", "C")),
            ("Options : A. x\nB. y", ("A", "B")),
            ("Which? (A) x (B) y (C) z", ("A", "B", "C")),
            ("(A) x (B) y\n(C) z (D) w", ABCD),
            ("A. a line\nthat goes on\n\nB. another", ("A", "B")),
            ("Is it?\nOptions:\n- valid \n- invalid\nA:", ("valid", "invalid")),
            ("Q: one\n(A) x\n(B) y\nA: (A)\n\nQ: How many?\nA:", ()),
            ("Q: one\n(A) x\n(B) y\n(C) z\nA: (A)\n\nQ: two\n(A) v\n(B) w\nA:", ("A", "B")),
            ("A. is the only one", ()),
            ("Rules:\n- always write in complete sentences\n- never use a list", ()),
            ("", ()),
        ],
    )
    def test_the_options_are_those_of_the_last_question(self, prompt: str, expected: tuple[str, ...]) -> None:
        """Examples before the question have options of their own."""
        assert options_in(prompt) == expected

    def test_agreement_is_equality_of_canonical_answers(self) -> None:
        """Nothing stated, or a reference that has no form, never agrees."""
        assert agrees("I say green. The answer is C.", "(C)", LETTERED_PROMPT)
        assert agrees("A: 1,200.0", "1200", "How much?")
        assert not agrees("The answer is B.", "(C)", LETTERED_PROMPT)
        assert not agrees(None, "C", LETTERED_PROMPT)
        assert not agrees("2", "2", LETTERED_PROMPT)


class TestHostileInput:
    """Whatever a model returns, reading it is safe."""

    @given(text=TEXT_WITH_ANYTHING | STITCHED, kind=st.sampled_from(ANSWER_KINDS), prompt=STITCHED)
    def test_an_answer_is_none_or_canonical(self, text: str, kind: AnswerKind, prompt: str) -> None:
        """No text raises, and whatever is extracted is a canonical form."""
        answer = extract(text, kind, options=options_in(prompt))
        assert answer is None or normalise(answer, kind) == answer
        assert infer_kind(text, prompt) in ANSWER_KINDS
        assert infer_kind(None, text) in ANSWER_KINDS

    @pytest.mark.parametrize(
        "seed",
        [
            "the answer is ",
            "answer to ",
            "(",
            "7",
            "1,",
            "<<",
            " ",
            "\n",
            "\\boxed{",
            "####",
            "A:\n",
            "(A) ",
            "A. b\n",
            "the best ",
            "not ",
            "1+",
            "/",
            "\\frac{1}{",
            "e9",
            "*",
            "\u0316\u0300",
            "İ",
            "\ud800",
            "\x00",
            "答案是",
        ],
    )
    @pytest.mark.parametrize("kind", ANSWER_KINDS)
    def test_sec_redos_a_megabyte_of_repetition_states_nothing_long(self, seed: str, kind: AnswerKind) -> None:
        """Repetition ends with no answer or one of bounded size, for a response, a reference and a prompt."""
        text = (seed * (1_000_000 // len(seed)))[:1_000_000]
        answer = extract(text, kind, options=("A", "B"))
        bound = {"number": MAX_DIGITS, "choice": 1, "label": TAIL, "text": len(text) * 2}[kind]
        assert answer is None or 0 < len(answer) <= bound
        assert infer_kind(text, text) in ANSWER_KINDS
        assert len(options_in(text)) <= 26

    def test_sec_redos_only_the_tail_is_searched(self) -> None:
        """A statement buried before TAIL characters is not looked for; one at the end is found."""
        assert extract("The answer is B. " + "x " * TAIL, "choice") is None
        assert extract("x " * 500_000 + "The answer is B.", "choice") == "B"

    def test_lone_surrogates_and_nuls_are_replaced(self) -> None:
        """An answer can be written to a file or a database."""
        assert extract("\ud800 The answer is B.\x00", "choice") == "B"
        assert normalise("a\x00b\udfff", "text") == "a\ufffdb\ufffd"
