"""mosaicml-streaming: gzip + orjson -> tokenizers, 1,000 documents a call -> rows of 128 -> MDSWriter with zstd and hashes."""

import gzip
import sys
from multiprocessing import Process

workers, out, tokenizer, files = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
ROW = 128


def work(index, files):
    import numpy as np
    import orjson
    from streaming import MDSWriter
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(tokenizer)
    rest = np.empty(0, np.uint16)
    with MDSWriter(out=f"{out}/{index}", columns={"tokens": f"ndarray:uint16:{ROW}"}, compression="zstd", hashes=["xxh64"], size_limit="64mb") as writer:
        def flush(texts):
            nonlocal rest
            ids = np.concatenate([rest, *(np.asarray(e.ids, np.uint16) for e in encoder.encode_batch_fast(texts))])
            rows = len(ids) // ROW
            for row in ids[:rows * ROW].reshape(rows, ROW):
                writer.write({"tokens": row})
            rest = ids[rows * ROW:]

        for path in files:
            texts = []
            for line in gzip.open(path, "rb"):
                texts.append(orjson.loads(line)["text"])
                if len(texts) == 1000:
                    flush(texts)
                    texts = []
            if texts:
                flush(texts)


if __name__ == "__main__":
    processes = [Process(target=work, args=(i, files[i::workers])) for i in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit(1)
    if workers > 1:
        from streaming.base.util import merge_index

        merge_index(out, keep_local=True)
