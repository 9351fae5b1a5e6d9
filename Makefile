# make demo: train and evaluate a detector with and without OHEM; then open output/demo/index.html
# make test: run the tests
# make zoo:  have the OHEM twin of every config in detectron2's model zoo train and infer
# make lint: check style and types
#
# Each sets up .venv/ if needed. Settings:
#   PYTHON=python3.12     the Python that .venv/ is made with, 3.10 or newer
#   DETECTRON2=REQUIREMENT the detectron2 to use instead of the package index's: whatever pip
#                          takes, such as a folder or git+https://github.com/facebookresearch/detectron2

PYTHON ?= python3
DETECTRON2 ?=

.PHONY: demo test zoo lint setup

demo: setup
	@# -W ignore: PyTorch warns of what detectron2 0.5 uses.
	.venv/bin/python -W ignore tools/demo.py

test: setup
	.venv/bin/python -m pytest

zoo: setup
	@.venv/bin/python -W ignore tools/zoo.py

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

setup:
	@$(PYTHON) tools/setup_environment.py --detectron2 "$(DETECTRON2)"
