# make demo         train and evaluate a detector with and without OHEM; then open output/demo/index.html
# make test         run all tests, one process per core, at most WORKERS=4
# make test-fast    run the quick ones while you write: about a minute, no training
# make faults       try what goes wrong in use, bad input and kills, and write docs/reliability.md;
#                   a quarter of an hour
# make lint         check style and types
# make zoo          train and test every config of detectron2's model zoo with OHEM, for a step
# make results      generate the results pages and their figures from benchmarks/results/
# make screenshots  retake the pictures of docs/hard_examples.md from what make demo and
#                   benchmarks.find_mistakes wrote; needs Chromium
#
# make ablation WEIGHTS=model_final.pth CONFIG=configs/demo/faster_rcnn_R_18_ohem.yaml
#     Test a detector with and without multiple scales, iterative box regression and voting, and print
#     a table. Resumes where it was stopped. Options:
#       MULTI_SCALE_WEIGHTS=   weights of the same config from multi-scale training, for the last row
#       OPTS='TEST.AUG.MIN_SIZES (128,160) DATASETS.TEST ("clutter_voc_test",)'
#                              options of the config: values without spaces, text in double quotes
#       OUTPUT=output/ablation the folder for the table and for what an interrupted run has finished
# make bench WEIGHTS=model_final.pth
#     Measure the time that these take. Takes CONFIG (by default the demo's) and OPTS as well.
#
# make reproduce DATASETS=DIR WEIGHTS=vgg16-397923af.pth
#     Train and test what the paper reports: see docs/reproduce.md. Options:
#       ARGS="--rows table1 --seeds 1 2"  other arguments of `ohem-d2 reproduce`
#
# make gpu          run all that needs an NVIDIA GPU: the tests of CUDA, how often a step waits for the
#                   GPU, the times of merging boxes and of training steps. Writes output/gpu/. Options:
#       PARTS="tests steps"    of environment, tests, syncs, merging and steps
#       ARGS="--repeats 5"     other options of benchmarks.gpu.run
#       WHEELS=output/wheels   without a package index: use PYTHON and its PyTorch, with these wheels
# make wheels       gather these wheels on a machine with a package index. Options:
#       PYTHON_VERSION=3.12    the Python of the machine with the GPU
#
# Each target sets up .venv/ if needed. Settings:
#   PYTHON=python3.12       the Python to create .venv/ with, 3.10 or newer
#   DETECTRON2=REQUIREMENT  the detectron2 to use instead of the package index's: anything that pip
#                           takes, such as a folder or git+https://github.com/facebookresearch/detectron2

PYTHON ?= python3
DETECTRON2 ?=

OUTPUT ?= output/ablation
WORKERS ?= 4

.PHONY: demo test test-fast faults zoo lint ablation reproduce bench results screenshots setup gpu \
	gpu_site wheels

demo: setup
	@# -W ignore: detectron2 0.5 uses what PyTorch has deprecated.
	.venv/bin/python -W ignore tools/demo.py

PYTEST = .venv/bin/python -m pytest -n auto --maxprocesses $(WORKERS) --dist worksteal

test: setup
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m "not slow"

zoo: setup
	@.venv/bin/python -W ignore tools/zoo.py

faults: setup
	@PYTHONPATH=tests .venv/bin/python -W ignore -m faults

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Each option is quoted because some contain parentheses.
ablation: given-WEIGHTS given-CONFIG setup
	@.venv/bin/python -W ignore -m ohem_d2 ablation --config-file "$(CONFIG)" --weights "$(WEIGHTS)" \
		$(if $(MULTI_SCALE_WEIGHTS),--multi-scale-weights "$(MULTI_SCALE_WEIGHTS)") \
		--output "$(OUTPUT)" $(foreach x,$(OPTS),'$(x)')

reproduce: given-DATASETS given-WEIGHTS setup
	@.venv/bin/python -W ignore -m ohem_d2 reproduce --datasets "$(DATASETS)" \
		--weights "$(WEIGHTS)" $(ARGS)

bench: given-WEIGHTS setup
	@.venv/bin/python -W ignore -m benchmarks.test_time --weights "$(WEIGHTS)" \
		$(if $(CONFIG),--config-file "$(CONFIG)") $(foreach x,$(OPTS),'$(x)')

results: setup
	@.venv/bin/python -W ignore -m benchmarks.report

DEMO = output/demo/faster_rcnn_R_18
CORRUPTED = output/find_mistakes/0
PAGES = output/screenshots
SCREENSHOT = .venv/bin/python docs/figures/screenshot.py

screenshots: setup
	rm -rf $(PAGES)
	.venv/bin/python -W ignore -m ohem_d2 inspect --output $(PAGES)/inspection \
		--config-file $(CORRUPTED)/config.yaml --import benchmarks.corrupted_clutter \
		MODEL.WEIGHTS $(CORRUPTED)/model_final.pth
	.venv/bin/python -W ignore -m ohem_d2 compare $(DEMO) $(DEMO)_ohem --output $(PAGES)/comparison
	@# Two of the examples are marked.
	$(SCREENSHOT) $(PAGES)/inspection/index.html docs/hard_examples_grid.jpg \
		--click "#kinds label:nth-of-type(1) input" \
		--click "section:nth-of-type(1) .tile:nth-child(2)" --click "#marks button:nth-child(1)" \
		--click "#next" --click "#marks button:nth-child(1)" --click "#close"
	$(SCREENSHOT) $(PAGES)/inspection/index.html docs/hard_examples_image.jpg --dark \
		--click "section:nth-of-type(2) .tile:nth-child(2)" --click "#marks button:nth-child(1)"
	$(SCREENSHOT) $(PAGES)/comparison/index.html docs/comparison_errors.jpg --of "section .wide:has(.levels)"
	$(SCREENSHOT) $(PAGES)/comparison/index.html docs/comparison_detections.jpg --of "section .pair"

GPU_SITE = $(CURDIR)/output/gpu_site

gpu: $(if $(WHEELS),gpu_site,setup)
	@$(if $(WHEELS),PYTHONPATH=$(GPU_SITE) $(PYTHON),.venv/bin/python) -W ignore \
		-m benchmarks.gpu.run $(if $(PARTS),--parts $(PARTS)) $(ARGS)

gpu_site:
	rm -rf $(GPU_SITE)
	$(PYTHON) -m pip install --quiet --no-index --no-deps --target $(GPU_SITE) $(WHEELS)/*.whl

wheels: setup
	@.venv/bin/python -W ignore -m benchmarks.gpu.wheels \
		$(if $(PYTHON_VERSION),--python-version $(PYTHON_VERSION))

given-%:
	@test -n "$($*)" || { echo "$* is missing: give $*=..., see the top of the Makefile." >&2; exit 1; }

setup:
	@$(PYTHON) tools/setup_environment.py --detectron2 "$(DETECTRON2)"
