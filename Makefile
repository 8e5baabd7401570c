# Everything runs in .venv, which is made when missing. `make demo` and `make test` are all that a newcomer needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-short demo-mnist test mutants lint types examples gallery docs bench bench-fitted bench-overhead bench-training bench-audit bench-conditional bench-processes bench-gpu clean

demo: .venv/ready-demo ## train on real 8x8 digits and show what the network can do: runs/demo/report.html, about 4 minutes
	$(BIN)/scoresde train digits --out runs/demo --process linear --prediction velocity --held-out 297 --conditional --label-dropout 0.15
	$(BIN)/scoresde report runs/demo --trajectories 64

demo-short: .venv/ready-demo ## the demo in a minute, for CI: the digits are not yet readable
	rm -rf runs/short
	$(BIN)/scoresde train digits --out runs/short --process linear --prediction velocity --held-out 297 --conditional --label-dropout 0.15 \
	  --iterations 100 --width 8
	$(BIN)/scoresde report runs/short --samples 16 --trajectories 40

demo-mnist: .venv/ready-mnist ## the same on real 28x28 digits: about 11 minutes
	$(BIN)/scoresde train mnist --out runs/mnist --iterations 4500 --ema 0.998 \
	  --multipliers 1,2,2 --patch 2
	$(BIN)/scoresde sample runs/mnist --out runs/mnist/samples.png
	$(BIN)/scoresde compare runs/mnist --samples 16
	$(BIN)/scoresde compare runs/mnist --out runs/mnist/all --samples 1000 --against all --features classifier --no-curves \
	  --solver ancestral:100 --solver ddim:50 --solver dpm++2m:20

test: .venv/ready-test .venv/ready-bench ## all tests, in parallel, one thread each
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

mutants: .venv/ready-test .venv/ready-bench ## plant faults and count those that the tests find: 15 minutes
	$(BIN)/python -m tests.mutants

lint: .venv/ready-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/ready-lint
	$(BIN)/mypy

examples: .venv/ready-demo ## the examples in their short mode
	mkdir -p runs/examples
	$(BIN)/python examples/ddpm_is_an_sde.py --short --out runs/examples/ddpm_is_an_sde.png
	$(BIN)/python examples/train_digits.py --short --out runs/examples/train_digits.png
	$(BIN)/python examples/likelihood.py --short --out runs/examples/likelihood.png
	$(BIN)/python examples/score_matching_family.py --short --out runs/examples/score_matching_family.png
	$(BIN)/python examples/guidance.py --short --out runs/examples/guidance.png
	$(BIN)/python examples/inverse_problems.py --short --out runs/examples/inverse_problems.png
	$(BIN)/python examples/simulation_based_inference.py --short --out runs/examples/two_moons.png
	$(BIN)/python examples/linear_sdes.py --short --out runs/examples/processes.png

gallery: .venv/ready-demo ## run the examples and keep their pictures for the docs; half an hour
	$(BIN)/python docs/make_gallery.py

docs: .venv/ready-docs ## docs/_build/html, warnings are errors
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

bench: .venv/ready-bench ## error against network calls, beside diffusers, k-diffusion and azula
	$(BIN)/pip install -q --no-deps -c constraints.txt k-diffusion torchdiffeq || echo "without k-diffusion"
	$(BIN)/python benchmarks/solvers.py $(if $(wildcard runs/demo),--network runs/demo=64)
	$(BIN)/python benchmarks/pages.py

bench-fitted: .venv/ready-bench ## what solvers fitted to a model are worth, on exact scores and on the trained runs that are there: 15 minutes and more
	$(BIN)/python benchmarks/fitted.py
	$(if $(wildcard runs/demo runs/mnist),$(BIN)/python benchmarks/fitted.py --network $(wildcard runs/demo runs/mnist) --nfe 5 8 10 --noises 128)
	$(BIN)/python benchmarks/pages.py

bench-overhead: .venv/ready-bench ## what the sampling loop costs beyond the network, beside diffusers, azula and k-diffusion: 8 minutes
	$(BIN)/python benchmarks/overhead.py

bench-training: .venv/ready-bench ## samples a second in training, beside diffusers: 2 minutes
	$(BIN)/python benchmarks/training.py

bench-audit: .venv/ready-bench ## every sampler of five packages, audited: docs/audit.md, 10 minutes
	$(BIN)/pip install -q --no-deps -c constraints.txt k-diffusion torchdiffeq || echo "without k-diffusion"
	$(BIN)/python benchmarks/audit.py

bench-conditional: .venv/ready-bench ## cost of guidance, and posteriors on a prior of 25 modes: 8 minutes
	$(BIN)/python benchmarks/conditional.py cost modes
	$(BIN)/python benchmarks/pages.py

bench-processes: .venv/ready-bench ## CLD, four processes on digits, and a bridge: 50 minutes with the training
	$(BIN)/python benchmarks/processes.py
	$(BIN)/python benchmarks/pages.py

bench-gpu: .venv/ready-bench ## the first on a GPU: eager, compiled and as a CUDA graph
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf .venv build docs/_build docs/api docs/api.md docs/gallery.md docs/cli-reference.md *.egg-info

.venv/ready-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@
