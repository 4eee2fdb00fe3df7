"""Converters: one file and one heavy library each. None of them reports to its maker."""

import sys

# OpenVINO's tools report each import and each conversion to a web service, every time from a fork of the
# whole process, unless this module is not installed. Nobody asked our users, so for us it is not.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # None is how Python spells "not installed"
