"""What rs-bpe makes of texts; run in its environment, with {encoding: texts} in and out as JSON."""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Print, for every text, the number of tokens and a CRC of the tokens themselves."""
    import zlib
    from array import array

    from rs_bpe.bpe import openai

    found = {}
    for name, texts in json.load(sys.stdin).items():
        encode = getattr(openai, name)().encode
        tokens = (encode(text) for text in texts)
        found[name] = [[len(ids), zlib.crc32(array("I", ids).tobytes())] for ids in tokens]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
