"""What the lab counts: questions that its models can be asked, and only so many keys."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from workbench.serve.lab import account
from workbench.serve.lab.http1 import Asked


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/nothing", b"{}", 404),
        ("/v1/chat/completions", b"not json", 400),
        ("/v1/chat/completions", b'{"model": "weak"}', 400),
        ("/v1/chat/completions", b'{"model": "zzz", "messages": [{"role": "user", "content": "x"}]}', 404),
        ("/v1/chat/completions", b'{"model": "weak!zzz", "messages": [{"role": "user", "content": "x"}]}', 400),
    ],
)
def test_what_no_model_can_be_asked_is_no_question(lab, path, body, status):
    """An unknown path, model or fault and a body that is none: in the log, and in no count."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(lab.url + path, data=body))
    caught.value.close()
    assert caught.value.code == status
    assert [entry.status for entry in lab.log] == [status]
    assert lab.accepted.as_dict() == {"accepted": 0, "idempotency_keys": 0, "by_model": {}, "by_fault": {}}
    assert not lab.accepted.by_key


def test_the_keys_that_are_remembered_are_as_many_as_the_rows_of_the_log(monkeypatch):
    """Of ten calls the last four, in counts and attempts alike; a call that goes on is not forgotten, nor a total."""
    monkeypatch.setattr(account, "LOG_ROWS", 4)
    counts = account.Account()

    def ask(key):
        asked = Asked(1, "POST", "/v1/chat/completions", {"idempotency-key": key} if key else {}, b"", 0.0)
        entry = account.Entry(asked, "openai", model="weak", is_question=True)
        entry.attempt = counts.attempt("weak", key)
        counts.add(entry)
        return entry.attempt

    assert [ask("") for _ in range(2)] == [1, 2]
    assert [(ask("going on"), ask(f"k{n}")) for n in range(9)] == [(n + 1, 1) for n in range(9)]
    assert ask("") == 3
    found = counts.accepted
    assert found.by_key == {"": 3, "going on": 9, "k6": 1, "k7": 1, "k8": 1}
    assert (found.total, found.keys, found.by_model) == (21, 10, {"weak": 21})
    assert ask("k0") == 1  # forgotten
    assert len(counts.log) == len(counts._attempts) == 4
