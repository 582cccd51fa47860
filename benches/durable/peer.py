"""What `--nodes` of main.rs measures, of LangGraph with its checkpoints in PostgreSQL: runs of so many nodes in a row, each of
which writes 200 bytes, on so many threads at once. `semaphore` takes the lock of the saver away, as hand-tuned services do.

    pip install langgraph==1.2.22 langgraph-checkpoint-postgres==3.2.0 'psycopg[binary,pool]'
    python benches/durable/peer.py postgres://postgres@127.0.0.1/empty --nodes 20 --threads 16 [--semaphore]
"""

import argparse
import asyncio
import json
import resource
import time
from typing import TypedDict

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

flags = argparse.ArgumentParser()
flags.add_argument("url")
flags.add_argument("--nodes", type=int, default=20)
flags.add_argument("--threads", type=int, default=1)
flags.add_argument("--runs", type=int, default=20)
flags.add_argument("--semaphore", action="store_true")
flags = flags.parse_args()


class State(TypedDict):
    value: str


def row(nodes: int) -> StateGraph:
    graph = StateGraph(State)
    for n in range(1, nodes + 1):
        text = f"{n:0200}"

        async def node(_: State, text: str = text) -> State:
            return {"value": text}

        graph.add_node(f"n{n}", node)
        graph.add_edge(START if n == 1 else f"n{n - 1}", f"n{n}")
    graph.add_edge(f"n{nodes}", END)
    return graph


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main() -> None:
    settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(flags.url, min_size=20, max_size=20, kwargs=settings) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        if flags.semaphore:
            saver.lock = asyncio.Semaphore(20)
        graph = row(flags.nodes).compile(checkpointer=saver)

        async def thread(name: str, runs: int) -> None:
            for _ in range(runs):
                config = {"configurable": {"thread_id": name}, "recursion_limit": 1000}
                await graph.ainvoke({"value": ""}, config, durability="sync")

        await thread("first", 1)
        begun, cpu = time.perf_counter(), cpu_seconds()
        await asyncio.gather(*(thread(f"bench{n}", flags.runs) for n in range(flags.threads)))
        took, used = time.perf_counter() - begun, cpu_seconds() - cpu
        steps = flags.threads * flags.runs * flags.nodes
        print(
            json.dumps(
                {
                    "nodes": flags.nodes,
                    "threads": flags.threads,
                    "supersteps_per_second": steps / took,
                    "cpu_us_per_superstep": used / steps * 1e6,
                }
            )
        )


asyncio.run(main())
