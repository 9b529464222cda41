"""datatrove: JsonlReader -> DocumentTokenizer -> .ds and .index, documents kept in order."""

import os
import pathlib
import sys

workers, out, tokenizer, files = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]

if __name__ == "__main__":
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    # The reader takes a folder: one of links to the files that were asked for.
    inputs = pathlib.Path(out, "inputs")
    inputs.mkdir()
    for path in files:
        os.symlink(path, inputs / pathlib.Path(path).name)
    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(inputs), glob_pattern="*.json.gz"),
            DocumentTokenizer(output_folder=f"{out}/ds", tokenizer_name_or_path=tokenizer, shuffle_documents=False),
        ],
        tasks=len(files),
        workers=workers,
        logging_dir=f"{out}/log",
    ).run()
