"""The random part of a run's id, which is drawn for many runs at once, in a process that forks."""

import os

import pytest

from kit.processes import finish, script


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_gives_its_runs_other_random_ids_than_its_parent() -> None:
    with script(
        """
        async def body(run, message):
            return run.run_id[-12:]

        def three():
            return {Agent(body).run().value for _ in range(3)}

        three()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, " ".join(three()).encode())
            os._exit(0)
        os.waitpid(child, 0)
        say(len(three() | set(os.read(reader, 1_000).decode().split())))
        """
    ) as process:
        code, out, err = finish(process)
    assert out.split() == ["6"], err
    assert code == 0
