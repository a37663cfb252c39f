# The commands that work on this collection. `make help` lists them; CONTRIBUTING.md says when to use which.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

venv := .venv/bin
# nothing that runs here shall depend on what the user has set for Ansible and Python
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PATH := $(CURDIR)/$(venv):$(PATH)
unexport ANSIBLE_COLLECTIONS_PATH ANSIBLE_ROLES_PATH PYTHONPATH VIRTUAL_ENV

.PHONY: help setup lock lint sanity unit integration molecule user-hosts system-packages test demo faults real bare gpu bench bench-push pins build docs changelog clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

setup: ## Development tools into .venv, the checkout importable as rlinf.offline (PYTHON=... picks the interpreter)
	@tools/setup

lock: setup ## Newest development tools into requirements-dev.txt, with hashes; what nodes get out of it
	$(venv)/uv pip compile -q --upgrade --universal --generate-hashes --python-version 3.10 --no-emit-index-url --no-annotate \
	  --custom-compile-command 'make lock' -o requirements-dev.txt requirements-dev.in
	tools/runtime-requirements > roles/download/files/runtime-requirements.txt
	tools/runtime-requirements libtorrent > roles/download/files/swarm-requirements.txt
	$(venv)/uv pip compile -q --universal --generate-hashes --python-version 3.10 --no-emit-index-url --no-annotate --no-header \
	  --constraints requirements-dev.txt -o roles/download/files/control-requirements.txt requirements.txt

lint: setup ## ruff, mypy, yamllint, shellcheck, ansible-lint
	$(venv)/ruff check
	$(venv)/ruff format --check
	cd .venv/collections && ../bin/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.cache/mypy \
	  -p ansible_collections.rlinf.offline.plugins
	$(venv)/yamllint --strict .
	$(venv)/shellcheck .ci/run tools/* tests/hosts/*.sh
	$(venv)/ansible-lint --profile production --offline

sanity: setup ## ansible-test sanity, with the Python of .venv
	tools/sanity

unit: setup ## pytest tests/unit
	$(venv)/pytest -n auto --dist worksteal tests/unit

integration: setup ## pytest tests/integration
	$(venv)/pytest -n auto --dist loadfile tests/integration

molecule: setup ## Nodes without a way out, by ssh and as a container: the scenarios of molecule/ (root; SCENARIO=default is one)
	@tools/system-packages
	@[ "$$(id -u)" = 0 ] || { echo "The test hosts are network namespaces, which needs root: sudo make molecule" >&2; exit 1; }
	RLINF_INVENTORY=$(CURDIR)/inventory.example $(venv)/molecule -c molecule/user-hosts/molecule.yml syntax -s user-hosts
	printf '%s\n' $(or $(SCENARIO),default container index restore) | xargs -P "$$(nproc)" -I {} tools/molecule {}

user-hosts: setup ## Your own hosts: install, again, verify (RLINF_INVENTORY names them; see molecule/user-hosts)
	@[ -n "$${RLINF_INVENTORY:-}" ] || { echo "Say which hosts: make user-hosts RLINF_INVENTORY=/path/to/inventory.yml" >&2; exit 1; }
	RLINF_INVENTORY=$(abspath $(RLINF_INVENTORY)) $(venv)/molecule -c molecule/user-hosts/molecule.yml test -s user-hosts

system-packages: ## What the tests need from apt (root)
	@tools/system-packages --install

test: setup ## Everything that CI runs: lint, sanity, unit, integration, molecule, two at a time
	$(MAKE) -j2 --output-sync=target lint sanity unit integration molecule

demo: setup ## The whole job against a small upstream on loopback (no root)
	$(venv)/python -m tests.demo.run

faults: setup ## Kill, starve and deceive real runs, and count what was lost (root; CLASS="kill disk" takes some)
	$(venv)/python -m tests.faults.run $(CLASS)

real: setup ## The real RLinf: RLINF_UPSTREAM names a stand-in for github.com where it cannot be reached (root)
	$(venv)/python -m tests.real.run

bare: setup ## Nodes with nothing but python3 and sshd, of two releases, to a target (root, mmdebstrap, network; ARGUMENTS="--bundle DIR")
	$(venv)/python -m tests.real.bare $(ARGUMENTS)

gpu: setup ## A folder to carry to a GPU node without network, where everything is tried (FOLDER=/tmp/gpu; see docs/gpu-node.md)
	@[ -n "$(FOLDER)" ] || { echo "Say where: make gpu FOLDER=/tmp/gpu" >&2; exit 1; }
	$(venv)/python -m tests.real.gpu $(FOLDER)

bench: bench-push bench-site bench-download bench-verify bench-memory bench-losses ## Ours beside peers, into docs/benchmarks.md (root, two hours)

bench-push: setup ## A bundle to 1 to 16 nodes behind one uplink, by each engine and by rsync itself (root; ARGUMENTS="--nodes 8 16")
	$(venv)/python -m tests.bench.push $(or $(ARGUMENTS),--record)
	$(if $(ARGUMENTS),,$(venv)/python -m tests.bench.push --nodes 16 --bytes 1000000000 --record)

bench-site bench-download bench-verify bench-memory bench-losses: bench-%: setup
	$(venv)/python -m tests.bench.$* $(or $(ARGUMENTS),--record)

bench-site: ## site on 4, 8 and 16 nodes, first and again, against a plain playbook (root)
bench-download: ## An upstream that answers slowly, against git and wget
bench-verify: ## Bytes hashed per second, against sha256sum
bench-memory: ## The peak of each module with 5 GB in one file, and with 100,000 files (40 GB of disk)
bench-losses: ## Nodes, the bastion's peer and the writer of a shared directory, killed in the middle of a push (root)

pins: setup ## The pins that ship, out of the locks of BUNDLE (default: the one of make real)
	$(venv)/python -m tests.tools.pins $(or $(BUNDLE),.real/bundle)

build: setup ## The collection's archive into build/
	$(venv)/ansible-galaxy collection build --force --output-path build

docs: setup ## The roles' READMEs and docs/variables.md out of their argument specs
	$(venv)/python -m tests.tools.role_readmes

changelog: setup ## CHANGELOG.rst out of changelogs/fragments, when a version is released
	$(venv)/antsibull-changelog release

clean: ## What make has made, the development tools too
	rm -rf .venv .cache .demo build
