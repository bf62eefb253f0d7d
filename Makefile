# make demo | test | test-v2 | test-systemd | test-docker | lint | bench | storm | mutants; each sets up what it needs (as root, on
# Debian 12).
PYTHON ?= $(shell for p in /usr/bin/python3 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(shell find ocipy native tools -name '*.py' -not -name _table.py -o -name '*.[ch]' -o -name '*.json' 2>/dev/null)
PACKAGES_DEMO := python3-venv python3-dev libc6-dev libseccomp-dev busybox-static
PACKAGES_TEST := $(PACKAGES_DEMO) containerd runc crun umoci skopeo podman iproute2 procps uidmap util-linux libcap2-bin e2fsprogs apparmor criu iptables
PACKAGES_GUEST := user-mode-linux kmod util-linux
PACKAGES_SYSTEMD := systemd dbus libpam-systemd
PACKAGES_DOCKER := docker.io
PACKAGES_BENCH := $(PACKAGES_DEMO) runc crun hyperfine
APT := DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300
# installs what is missing and nothing else: without the network a machine that has it all still works
need = @missing=$$(for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	[ -z "$$missing" ] || { $(APT) -qq update && $(APT) -qq install -y --no-install-recommends $$missing >/dev/null; }

# a CRIU that knows kernels which that of Debian 12 does not; where it can't be had, its tests are skipped, and say so
later-criu: | $(VENV)/made
	@criu check >/dev/null 2>&1 || tools/get-criu.sh $(VENV)/criu || echo 'no later CRIU to be had: its tests will be skipped'

.PHONY: demo docs later-criu test test-v2 test-systemd test-docker lint bench storm mutants clean
.PHONY: packages-demo packages-test packages-bench packages-guest packages-systemd packages-docker
.DELETE_ON_ERROR:

demo: packages-demo $(VENV)/installed
	@$(BIN)/python examples/demo.py

test: packages-test $(VENV)/installed-test later-criu
	$(BIN)/python -m pytest $(PYTEST)

# the same tests under a pure cgroup v2 hierarchy, in guest kernels (User-mode Linux)
test-v2: packages-test packages-guest $(VENV)/installed-test later-criu
	tools/test-v2.sh $(PYTEST)

# the systemd cgroup driver under a real systemd, in a guest that boots it
test-systemd: packages-test packages-guest packages-systemd $(VENV)/installed-test
	tools/guest-run.sh -s -t 600 '$(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider spec-tests/test_systemd_cgroups.py $(PYTEST)'

# under a real dockerd
test-docker: packages-test packages-docker $(VENV)/installed-test later-criu
	OCIPY_DOCKER=1 $(BIN)/python -m pytest spec-tests/test_docker.py $(PYTEST)

lint: packages-demo $(VENV)/installed-test
	$(BIN)/python -m pip install -q 'ruff>=0.6' 'mypy>=1.11' types-cffi 'import-linter>=2.6'
	$(BIN)/ruff check .
	$(BIN)/python tools/make_schema_table.py
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# what is made of the command line's definition: the table of flags, man pages, completion
docs: $(VENV)/installed-test
	$(BIN)/python tools/make_cli_docs.py

bench: packages-bench $(VENV)/installed
	$(BIN)/python benchmarks/bench.py

# create killed at random instants, many times over
storm: packages-test $(VENV)/installed-test
	OCIPY_STORM=400 $(BIN)/python -m pytest -q spec-tests/test_killed_create.py

# small changes of the code that the tests should notice: SEED, SIZE (lines), WORKERS; all else as MUTANTS=--whole
mutants: packages-test $(VENV)/installed-test later-criu
	@PYTHONPATH=tools $(BIN)/python -m mutants $(if $(SEED),--seed '$(SEED)') $(if $(SIZE),--size $(SIZE)) \
		$(if $(WORKERS),--workers $(WORKERS)) $(MUTANTS)

packages-demo:
	$(call need,$(PACKAGES_DEMO))
packages-test:
	$(call need,$(PACKAGES_TEST))
packages-guest:
	$(call need,$(PACKAGES_GUEST))
packages-systemd:
	$(call need,$(PACKAGES_SYSTEMD))
packages-docker:
	$(call need,$(PACKAGES_DOCKER))
packages-bench:
	$(call need,$(PACKAGES_BENCH))

$(VENV)/made: | packages-demo
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check 'setuptools>=70.1' 'cffi>=1.15' 'jsonschema>=4.18'
	@touch $@

$(VENV)/installed: $(VENV)/made $(SOURCES)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install -q --disable-pip-version-check 'pytest>=7' 'hypothesis>=6' 'jeepney>=0.8' \
		'tree-sitter>=0.22' 'tree-sitter-c>=0.21'
	@touch $@

clean:
	rm -rf --one-file-system $(VENV) build *.egg-info ocipy/_init ocipy/_*.so ocipy/_native.c ocipy/_seccomp.c
