"""How fast torchless is, beside its peers: contenders and workloads are tables, each contender a process of its own.

    plan = make_plan(["my-bundle"])
    report = document(plan, run(plan), ["my-bundle"])
    print(text_table(report))

A contender is a row of `contenders.CONTENDERS` and a file in `engines/`; a workload is a row of `workloads.WORKLOADS`
and, where it is of a new kind, an entry in `inputs.KINDS` and a method of the engines. Nothing else knows their names,
but for the table of targets.
"""

from __future__ import annotations

from torchless_bench.contenders import CONTENDERS
from torchless_bench.crossover import read_prices
from torchless_bench.page import write as write_page
from torchless_bench.plan import Settings, check_devices, choose, choose_workloads, make_plan, named, table_of
from torchless_bench.plots import check as check_figures
from torchless_bench.report import document, read, to_json
from torchless_bench.rounds import run
from torchless_bench.table import listing, text_table
from torchless_bench.targets import TARGETS
from torchless_bench.workloads import SETS, WORKLOADS

__all__ = [
    "CONTENDERS",
    "SETS",
    "TARGETS",
    "WORKLOADS",
    "Settings",
    "check_devices",
    "check_figures",
    "choose",
    "choose_workloads",
    "document",
    "listing",
    "make_plan",
    "named",
    "read",
    "read_prices",
    "run",
    "table_of",
    "text_table",
    "to_json",
    "write_page",
]
