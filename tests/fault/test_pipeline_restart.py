# SPDX-License-Identifier: BSD-3-Clause
"""A pipeline that was restarted between two sequences costs the second one nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kit.site import FakePipeline, Site


def test_a_pipeline_restarted_between_sequences_is_found_again(
    tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    site = Site(tmp_path, free_ports(4))
    try:
        pipeline = FakePipeline()
        with pipeline.served(site.registry):
            camera = site.camera(pipeline_daemon="pipeline")
            camera.call("set_exposure", seconds=0.01)
            assert camera.finish(camera.call("start", count=2))["state"] == "done"
        # The camera's connection is dead now, and it cannot know.
        with pipeline.served(site.registry):
            snapshot = camera.finish(camera.call("start", count=2))
            assert snapshot["state"] == "done", snapshot
        assert len(pipeline.accepted) == 4
    finally:
        site.close()
