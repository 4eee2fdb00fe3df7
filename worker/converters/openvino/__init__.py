"""The OpenVINO converter: judge the source, export it, prove that the result runs."""
