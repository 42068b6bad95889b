"""What every client of `overhead` asks and must be answered; read by the server, the workers and the tests.

Needs nothing but the standard library: the workers run in environments of other people's packages.
"""

from __future__ import annotations

import json
import re

MODEL = "gpt-4o-mini"
KEY = "sk-overhead-no-real-key"
SYSTEM = "You are a careful assistant. Answer in one short paragraph."
QUESTION = "What is the capital of France, and since when has it been the capital? Variation {number}"
ANSWER = "{number}: The capital of France is Paris, on the Seine, the seat of its kings since 987 with interruptions."
NUMBER = re.compile(rb"Variation (\d+)")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.I)
LAST_CHUNK = b"0\r\n\r\n"


def messages(number: int) -> list[dict[str, str]]:
    """The conversation that is sent as call `number`, in OpenAI's form."""
    asked = QUESTION.format(number=number)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]


def answer(number: int) -> str:
    """The only right answer to call `number`."""
    return ANSWER.format(number=number)


def response(request: bytes) -> bytes:
    """The HTTP response to one request: its own answer, or 400 when it has no number."""
    if (found := NUMBER.search(request)) is None:
        return b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"
    message = {"role": "assistant", "content": answer(int(found[1])), "refusal": None, "annotations": []}
    document = {
        "id": f"chatcmpl-{int(found[1]):016d}",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 40, "completion_tokens": 31, "total_tokens": 71},
        "system_fingerprint": "fp_0000",
    }
    body = json.dumps(document).encode()
    head = f"content-type: application/json\r\nx-request-id: req_{int(found[1])}\r\ncontent-length: {len(body)}"
    return f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + body


def split(received: bytes) -> tuple[list[bytes], bytes]:
    """The whole HTTP requests at the beginning of what was received, and the rest."""
    requests: list[bytes] = []
    while (head := received.find(b"\r\n\r\n") + 4) > 3:
        # With its last line's end, so that a name is found between two ends of lines.
        if (length := LENGTH.search(received, 0, head)) is not None:
            end = head + int(length[1])
        elif b"chunked" in received[:head].lower():
            last = received.find(LAST_CHUNK, head)
            end = last + len(LAST_CHUNK) if last >= 0 else len(received) + 1
        else:
            end = head
        if end > len(received):
            break
        requests.append(received[:end])
        received = received[end:]
    return requests, received
