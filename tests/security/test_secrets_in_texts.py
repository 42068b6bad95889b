"""What is known as a secret by its look or by its name, wherever a text of somebody else's quotes it."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from workbench.act.secret import Secret
from workbench.canonical import redacted, redacted_json

CANARY = "canary0Aa1Bb2Cc3Dd4"

SECRETS = {
    "bearer": f"sent Bearer {CANARY}",
    "authorization": f"Authorization: Bearer {CANARY}",
    "basic": f"authorization: Basic {CANARY}==",
    "token scheme": f"Authorization: Token {CANARY}",
    "json": json.dumps({"headers": {"authorization": f"Bearer {CANARY}", "x": 1}}),
    "json in json": json.dumps({"body": json.dumps({"api_key": CANARY})}),
    "json in json in json": json.dumps(json.dumps(json.dumps({"password": CANARY}))),
    "python": repr({"api_key": CANARY}),
    "x-api-key": f"x-api-key: {CANARY}",
    "x-goog-api-key": f"x-goog-api-key={CANARY}",
    "environment": f"OPENAI_API_KEY={CANARY}",
    "access token": f"access_token={CANARY}&x=1",
    "camel case": f'{{"accessToken":"{CANARY}"}}',
    "client secret": f"client_secret: {CANARY}",
    "aws": f"AWS_SECRET_ACCESS_KEY={CANARY}",
    "password": f"DB_PASSWORD={CANARY}",
    "passwd": f"passwd={CANARY}",
    "subscription": f"Ocp-Apim-Subscription-Key: {CANARY}",
    "query": f"https://h/v1?key={CANARY}&alt=json",
    "second query": f"https://h/v1?alt=json&sig={CANARY}",
    "address": f"https://user:{CANARY}@host:8080/path",
    "address without user": f"redis://:{CANARY}@host",
    "address with a token": f"https://{CANARY}@host/repo.git",
    "cookie": f"Cookie: theme=dark; session={CANARY}; x=1",
    "set-cookie": f"'set-cookie': 'a={CANARY}; Path=/'",
    "openai": f"key sk-{CANARY}",
    "project": f"key sk-proj-{CANARY}",
    "google": f"AIza{CANARY}",
    "aws id": f"AKIA{CANARY.upper()}",
    "github": f"ghp_{CANARY}",
    "slack": f"xoxb-{CANARY}",
    "oauth": f"ya29.{CANARY}",
    "jwt": f"eyJhbGciOiJIUzI1NiJ9.{CANARY}.{CANARY}",
    "pem": f"-----BEGIN RSA PRIVATE KEY-----\nMIIE\n{CANARY}\n-----END RSA PRIVATE KEY-----",
    "cut pem": f"-----BEGIN PRIVATE KEY-----\n{CANARY}",
}
PLAIN = [
    "the model gave 4096 tokens, max_tokens=4096",
    "prompt_tokens: 1234, completion_tokens: 5678",
    "see https://example.org/users/@name?page=2#key",
    "mail me at somebody@example.org",
    "the key is under the mat; a token of thanks",
    "LLMProviderError: lab:strong answered 500: internal error",
    '{"model":"openai:gpt-4.1","item_id":"gsm8k-17"}',
    "monkey=12345 turkey: roast",
    "https://host/a?monkey=12345",
]


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS)
def test_sec_secret_log_a_secret_is_taken_out(text: str):
    """Nothing of it is left, in capitals either, and the text still says that something was there."""
    clean = redacted(text)
    assert CANARY.lower() not in clean.lower()
    assert "[redacted]" in clean


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text: str):
    """A message whose words went missing would help nobody."""
    assert redacted(text) == text


@pytest.mark.parametrize("name", ["json", "json in json", "json in json in json"])
def test_json_stays_json(name: str):
    """Only the value goes, and its quotes stay."""
    found = json.loads(redacted(SECRETS[name]))
    assert "[redacted]" in json.dumps(found)


def test_what_stands_around_a_secret_stays():
    """The host of an address, the header's name, the words before and after."""
    assert redacted(SECRETS["address"]) == "https://[redacted]@host:8080/path"
    assert redacted(f"a x-api-key: {CANARY}, b") == "a x-api-key: [redacted], b"


def test_taking_out_twice_changes_nothing():
    """What was taken out once is no secret any more."""
    for text in SECRETS.values():
        assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ({"token": CANARY, "a": 1}, {"token": "[redacted]", "a": 1}),
        ({"token": 12345, "password": True, "secret": None}, {"token": 12345, "password": True, "secret": None}),
        ({"headers": {"Authorization": f"Bearer {CANARY}"}}, {"headers": {"Authorization": "[redacted]"}}),
        (
            {"token": CANARY, "password": ["a", {"x": "b"}]},
            {"token": "[redacted]", "password": ["[redacted]", {"x": "b"}]},
        ),
        ([f"see sk-{CANARY}", "plain"], ["see [redacted]", "plain"]),
        ({f"sk-{CANARY}": 1}, {"[redacted]": 1}),
        ({"max_tokens": 500, "user": "u1"}, {"max_tokens": 500, "user": "u1"}),
    ],
)
def test_json_without_secrets_is_json(value: object, clean: object):
    """By the look of a text, by the name that it has, and numbers as they are."""
    assert json.loads(redacted_json(json.dumps(value))) == clean


def test_json_without_a_secret_is_the_same_text():
    """Not written again: its spaces stay."""
    assert redacted_json('{"a" : [1,  "b"]}') == '{"a" : [1,  "b"]}'


def echoes(key: str) -> list[str]:
    """What becomes of a key on its way through servers."""
    return [
        key, key.lower(), key.upper(), quote(key), quote(key, safe=""), quote(key, safe="").lower(),
        json.dumps({"k": key}), repr({"k": key}), f"stop-{key.lower()}",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["Kx7abcdefghij0123", "a+b/c==DEFghij", "Q%2Bw/xyz~!*()'0", 'a"b\\c/+=0123'])
def test_sec_secret_log_a_known_key_is_scrubbed_in_every_form(key: str):
    """In small letters too: a wire format lowers what a server calls the reason of its end."""
    secret = Secret(key, origin="A_KEY")
    for text in echoes(key):
        assert "[redacted]" in secret.scrub(f"before {text} after"), text
        assert key.lower() not in secret.scrub(text).lower()


def test_a_short_key_is_a_word_and_stays():
    """`test` and `EMPTY`, as servers on this machine take them, would be taken out of every text."""
    assert Secret("EMPTY", origin="A_KEY").scrub("the list is empty: EMPTY") == "the list is empty: EMPTY"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9, 19, 40])
def test_sec_secret_log_a_key_in_pieces_is_held_back_until_it_is_known(size: int):
    """Whatever the pieces are, what is shown of the text is the text without the key, and nothing is lost."""
    key = "Kx7abKx7abc0123456"  # it begins a second time inside of itself
    text = f"Kx7 begins like {key} and {key.lower()}; Kx7abKx7, Kx7ab"
    secret, shown, held = Secret(key, origin="A_KEY"), [], ""
    for at in range(0, len(text), size):
        piece, held = secret.settled(held + text[at : at + size])
        shown.append(piece)
    assert "".join(shown) + held == "Kx7 begins like [redacted] and [redacted]; Kx7abKx7, Kx7ab"
    assert not [piece for piece in shown if key[:12].lower() in piece.lower()]


def test_a_text_that_does_not_end_like_the_key_is_shown_at_once():
    """Nothing is held back for a short key, which is never taken out either."""
    assert Secret("Kx7abcdefghij", origin="A_KEY").settled("all of it") == ("all of it", "")
    assert Secret("EMPTY", origin="A_KEY").settled("EMP") == ("EMP", "")


@pytest.mark.parametrize(
    "text",
    [
        "skip_special_tokens_in_output", "skeptical_reviewer_prompt_v2", "skills-question-0001-of-100",
        "sklearn_model_selection_split", "pkg_resources_extern_packaging", "ghost_town_of_many_words",
        "Unexpected token: identifier", "token: END_OF_TEXT", "grammar token: [a-z]+", "max_tokens: 4096",
        "next_token=cat",
    ],
)  # fmt: skip
def test_words_of_languages_and_models_are_left_alone(text: str) -> None:
    """Names and grammars that only begin like a key, or speak of tokens that are none."""
    assert redacted(text) == text


def test_settings_about_tokens_stay_in_the_parameters() -> None:
    """Two calls with different stop tokens differ in the log; what is a secret by its name is taken out."""
    kept = '{"eos_token":"</s>","max_tokens":4096,"stop":["token: END"],"stop_token":"END"}'
    assert redacted_json(kept) == kept
    assert redacted_json('{"token":"abc12345","top_k":3}') == '{"token":"[redacted]","top_k":3}'


def test_two_names_that_are_taken_out_stay_two() -> None:
    """Nothing is lost of a mapping whose keys are secrets."""
    made = redacted_json('{"sk-aaaaaaaaaaaaaaaaaaaaaaaa1":1,"sk-bbbbbbbbbbbbbbbbbbbbbbbb2":2}')
    assert made == '{"[redacted]":1,"[redacted]#":2}'
