"""The strongest pipeline one can assemble from PyPI: gzip + orjson + nanotoken -> u16 tokens and document ends."""

import gzip
import pathlib
import sys
from multiprocessing import Process

workers, out, tokenizer, files = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4:]


def work(files):
    import nanotoken
    import numpy as np
    import orjson

    encoder = nanotoken.Tokenizer(tokenizer)
    for path in files:
        stem = out / pathlib.Path(path).name.removesuffix(".json.gz")
        ends, total = [], 0
        with gzip.open(path, "rb") as source, open(f"{stem}.bin", "wb") as tokens:
            lines = source.read().split(b"\n")[:-1]
            for start in range(0, len(lines), 10_000):
                batch = encoder.encode_batch([orjson.loads(line)["text"] for line in lines[start:start + 10_000]], parallel=False)
                ids = np.concatenate([np.asarray(batch[i]) for i in range(len(batch))]).astype(np.uint16)
                tokens.write(ids.tobytes())
                ends.append(total + np.cumsum(batch.lengths))
                total += len(ids)
        np.concatenate(ends).astype(np.uint64).tofile(f"{stem}.ends")


if __name__ == "__main__":
    processes = [Process(target=work, args=(files[i::workers],)) for i in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))
