"""What is measured: one file for each way to run a model, loaded by its path in the process of a contender.

An engine's file imports only the standard library and the libraries that it is about, and defines

    DISTRIBUTIONS: tuple[str, ...]            whose versions the report names, where they are installed
    problem(options) -> str | None            optional: why it cannot run here; the contender is then skipped
    files(options) -> list[str]               optional: what it opens, where that is not the whole directory but for
                                              the other graphs than `options["file"]`
    class Engine:
        __init__(options, threads)            opens the model; `options["model"]` is the path
        forward(ids) -> call                  of token ids (batch, sequence), none of them padding, to logits
        answer(texts, batch_size) -> call     of texts, at most `batch_size` at once, to labels, in the texts' order
        ...                                   one method for each kind of workload that it can do

Each method takes the `arguments` of its kind of workload (`torchless_bench.inputs`), makes everything that is not
measured, arrays included, and returns a call without arguments: its duration is the sample, or what it returns. What
an engine cannot do after all it says by raising NotImplementedError, which gives one line in the report.
"""
