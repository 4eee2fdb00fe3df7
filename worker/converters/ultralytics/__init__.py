"""Exports Ultralytics' weights to OpenVINO: their library in a process of its own, the proof in this one."""
