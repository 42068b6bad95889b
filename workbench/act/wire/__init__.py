"""Wire formats: how a request is written and how an answer is read, one module each; no network here."""
