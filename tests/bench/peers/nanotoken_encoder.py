"""nanotoken's encoder alone, one thread, documents in memory: one JSON line a pass, the first cold."""

import gzip
import json
import sys
import time

import nanotoken
import orjson

PASSES, BATCH = 3, 10_000

tokenizer, files = sys.argv[1], sys.argv[2:]
texts = [orjson.loads(line)["text"] for path in files for line in gzip.open(path, "rb")]
size = sum(len(text.encode()) for text in texts)
encoder = nanotoken.Tokenizer(tokenizer)
for index in range(PASSES):
    tokens, started = 0, time.perf_counter()
    for start in range(0, len(texts), BATCH):
        tokens += len(encoder.encode_batch(texts[start:start + BATCH], add_special_tokens=False, parallel=False).ids)
    seconds = time.perf_counter() - started
    print(json.dumps({"pass": index, "mb_per_s": round(size / 1e6 / seconds, 1), "tokens": tokens}), flush=True)
