# Copyright (C) The ngx_vd_module authors

SHELL = /bin/bash -o pipefail

# What to build for, run and test with; all of these can be set.  There are more
# JOBS than processors, since tests wait more than they compute.

NGINX_BINARY ?= /usr/sbin/nginx
NGINX_SRC    ?= $(DEBIAN_SRC)
TESTS        ?= $(LONG_TESTS) $(filter-out $(LONG_TESTS),$(wildcard t/*.t))
JOBS         ?= $(shell expr 2 '*' $$(nproc))
FUZZ_SECONDS ?= 10
KILLS        ?= 200
CUTS         ?= 20
COMPAT       ?= bookworm trixie
DESTDIR      ?=

# Those that take longest come first, so that none is left alone at the end.

LONG_TESTS = t/230-config.t t/025-filters.t t/045-blocked.t

# The runner in t/lib takes the place of the real Test::Nginx if there is none.

TEST_NGINX_LIB ?= $(shell perl -MTest::Nginx::Socket \
	-e 'print $$INC{"Test/Nginx/Socket.pm"} =~ s,/Test/Nginx/Socket.pm,,r' \
	2> /dev/null)

# Those of Debian's nginx only to build for it: nginx.org's conflicts with them.

DEBIAN_SRC = /usr/share/nginx/src

BUILD_PACKAGES = gcc libjansson-dev libpcre2-dev libssl-dev make zlib1g-dev \
	$(if $(FOR_DEBIAN),dpkg-dev nginx nginx-dev)

FOR_DEBIAN = $(filter $(DEBIAN_SRC),$(NGINX_SRC))

TEST_PACKAGES = black ca-certificates clang clang-tidy cppcheck curl dpkg-dev \
	e2fsprogs jq libclang-rt-dev libcmocka-dev libgd-dev \
	liblist-moreutils-perl libtest-base-perl libtest-longstring-perl \
	libtext-diff-perl libwww-perl libxslt1-dev llvm mount mypy openssl \
	patch perl postgresql procps prometheus pyflakes3 python3 \
	python3-aiosmtpd python3-hypothesis python3-jsonschema \
	python3-pytest python3-pytest-timeout python3-pytest-xdist \
	python3-trustme python3-typeshed shellcheck strace util-linux \
	valgrind wrk

SIDECAR_PACKAGES = python3 python3-aiohttp python3-aiosmtplib python3-alembic \
	python3-attr python3-click python3-jinja2 python3-prometheus-client \
	python3-psycopg2 python3-sdnotify python3-sqlalchemy python3-structlog \
	tzdata

# An npm from elsewhere brings its own node, and will not have Debian's beside it.

BROWSER_PACKAGES = chromium-headless-shell curl fonts-dejavu-core jq openssl \
	$(if $(shell command -v npm),,nodejs)

MODULE  = build/ngx_http_vd_module.so
NGX_C   = $(wildcard ngx_vd_module/ngx_http_vd_*.c)
PLAIN_C = $(wildcard ngx_vd_module/vd_*.c)
TEST_C  = $(wildcard t/unit/*.c t/fuzz/*.c bench/*.c)
HEADERS = $(wildcard ngx_vd_module/*.h t/unit/*.h t/fuzz/*.h)
UNIT    = $(patsubst t/%.c,build/%,$(wildcard t/unit/test_*.c))
FUZZ    = $(patsubst t/%.c,build/%,$(wildcard t/fuzz/fuzz_*.c))

# $(call files,INTERPRETER,SUFFIX): the scripts of a language.

files = $(sort $(shell grep -rlIE '^\#!.*[/ ]($(1))\b' $(SOURCE_DIRS)) \
	$(shell find $(SOURCE_DIRS) -name '$(2)'))
SOURCE_DIRS = $(wildcard .ci bench build-aux demo sidecar t)


# One after the other, whatever -j says: what is slow to build and to run is
# parallel by itself, and tests of time want no rivals.

.NOTPARALLEL:
.PHONY: help build install install-sidecar demo test deps build-deps lint unit \
	sidecar fuzz suites faults threadless torture asan valgrind compat bench clean


help:
	@echo 'make build     $(MODULE) for the installed nginx,'
	@echo '               or NGINX_SRC=DIR, a source tree of any nginx >= 1.22'
	@echo 'make install   puts it where nginx looks (DESTDIR=, MODULES_DIR=)'
	@echo 'make install-sidecar'
	@echo '               installs the sidecar, with its unit and its user'
	@echo 'make demo      shows it at work'
	@echo 'make test      what must pass: lint unit sidecar browser fuzz suites'
	@echo '               faults threadless torture asan'
	@echo
	@echo 'make deps      installs the Debian packages that all this needs'
	@echo 'make lint      style and static analysis of C, Python and shell'
	@echo 'make unit      unit tests: the plain C parts, the helpers of the tests'
	@echo 'make sidecar   tests of the sidecar: with nginx, SQLite and PostgreSQL'
	@echo 'make browser   the pages in Chromium; leaves build/screenshots'
	@echo 'make fuzz      fuzzes the plain C parts, FUZZ_SECONDS=$(FUZZ_SECONDS) each'
	@echo 'make suites    TESTS="t/*.t" against the installed nginx'
	@echo 'make faults    whether the tests of the disk notice planted faults'
	@echo 'make threadless'
	@echo '               what an nginx without threads supports'
	@echo 'make torture   kills workers, KILLS=$(KILLS), and the power, CUTS=$(CUTS), under load'
	@echo 'make asan      the same as suites, with AddressSanitizer and UBSan'
	@echo 'make valgrind  the same, under valgrind'
	@echo 'make compat    the same, with the nginx of COMPAT="$(COMPAT)"'
	@echo 'make bench     compares it with what else could be done'
	@echo 'make clean     removes build/'


deps:
	@build-aux/install-packages $(BUILD_PACKAGES) $(SIDECAR_PACKAGES) \
		$(TEST_PACKAGES) $(BROWSER_PACKAGES)

build-deps:
	@build-aux/install-packages $(BUILD_PACKAGES)


# Replaced, never written into: a running nginx may have the old one mapped.

build: build-deps
	@build-aux/nginx-build $(NGINX_SRC) build/module modules
	@install -C build/module/objs/$(notdir $(MODULE)) $(MODULE)


test: deps lint unit sidecar browser fuzz suites faults threadless torture asan


# $(call prove,NGINX,MODULE) runs the suites.

prove = TEST_NGINX_BINARY=$(abspath $(1)) \
	TEST_NGINX_LOAD_MODULES=$(abspath $(2)) TEST_NGINX_RANDOMIZE=1 \
	prove -j$(JOBS) $(addprefix -I,$(TEST_NGINX_LIB)) -It/lib $(TESTS)

# $(call logged,DIR,COMMAND) runs it, and fails also if it left anything but
# empty files in DIR, which any user may write to: workers are not root.

logged = rm -rf $(1) && mkdir -m 1777 $(1) && { $(2); } && status=0 \
	|| status=$$?; ! grep -rh . $(1) && exit $$status

# $(call full-nginx,SOURCE,DIR,ARGUMENT...) is one to test with.

full-nginx = build-aux/nginx-build $(1) $(2) 'binary modules' \
	--with-compat --with-debug --with-threads --with-pcre-jit \
	--with-http_addition_module --with-http_auth_request_module \
	--with-http_dav_module --with-http_gunzip_module \
	--with-http_gzip_static_module --with-http_image_filter_module \
	--with-http_realip_module --with-http_secure_link_module \
	--with-http_slice_module --with-http_ssl_module \
	--with-http_stub_status_module --with-http_sub_module \
	--with-http_v2_module --with-http_xslt_module \
	--with-poll_module --with-select_module $(3)


suites: deps build
	@$(call prove,$(NGINX_BINARY),$(MODULE))


# Whether the tests of the disk bite: each fails with the fault that is planted.

faults: deps build
	TEST_NGINX_BINARY=$(NGINX_BINARY) prove -It/lib t/faults/faults.t


# An nginx that was built without threads, and with little else.

threadless: deps
	@build-aux/nginx-source bookworm
	@build-aux/nginx-build build/src/bookworm build/threadless binary \
		--with-http_ssl_module --with-cc-opt=-O0 --add-module=addon
	TEST_NGINX_BINARY=$(CURDIR)/build/threadless/objs/nginx \
		prove -It/lib t/threads/without.t


# Records that were acknowledged, looked for after kills and power cuts; these
# need root, for a disk image of their own.  t/torture/bite shows that faults
# would be noticed.

torture: deps build
	t/torture/run kill --kills $(KILLS) --nginx $(NGINX_BINARY)
	t/torture/run power --cuts $(CUTS) --nginx $(NGINX_BINARY)


# With NGX_DEBUG_PALLOC each piece of a pool is an allocation of its own, so
# that running over its end is seen.  The slow unwinder sees through OpenSSL.

UNWIND   = fast_unwind_on_malloc=0,malloc_context_size=10
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=undefined

asan: deps
	@build-aux/nginx-source bookworm
	@$(call full-nginx,build/src/bookworm,build/asan, \
		--add-module=addon --with-cc=clang \
		--with-cc-opt='-O1 -g -fno-omit-frame-pointer $(SANITIZE) \
		-fsanitize-ignorelist=addon/build-aux/ubsan.ignore \
		-DNGX_DEBUG_PALLOC=1' \
		--with-ld-opt='$(SANITIZE) addon/build-aux/lsan.c')
	@export ASAN_OPTIONS=$(UNWIND),log_path=$(CURDIR)/build/asan.log/report \
		UBSAN_OPTIONS=print_stacktrace=1 \
		LSAN_OPTIONS=print_suppressions=0; \
	$(call logged,build/asan.log,$(call prove,build/asan/objs/nginx))


# For what the sanitizers do not see: the use of what was never written.

VALGRIND = --vgdb=no --num-callers=30 \
	--log-file=$(CURDIR)/build/valgrind.log/%p

valgrind: deps
	@build-aux/nginx-source bookworm
	@$(call full-nginx,build/src/bookworm,build/valgrind, \
		--add-module=addon \
		--with-cc-opt='-O1 -g -DNGX_DEBUG_PALLOC=1')
	@export TEST_NGINX_USE_VALGRIND='$(VALGRIND)'; \
	$(call logged,build/valgrind.log,$(call prove,build/valgrind/objs/nginx))


compat: deps $(COMPAT:%=compat-%)

compat-%: deps
	@build-aux/nginx-source $*
	@$(call full-nginx,build/src/$*,build/compat/$*, \
		--add-dynamic-module=addon)
	@$(call prove,build/compat/$*/objs/nginx,\
		build/compat/$*/objs/$(notdir $(MODULE)))


# The plain C parts, without nginx: all their code with each test.

WARNINGS = -std=gnu11 -Wall -Wextra -Werror
LIBS     = -ljansson -lcrypto -lpcre2-8 -lz

$(UNIT): build/%: t/%.c $(PLAIN_C) $(HEADERS)
	@mkdir -p $(@D)
	gcc -g -O1 $(WARNINGS) $(SANITIZE) -Ingx_vd_module -o $@ \
		$< $(PLAIN_C) -lcmocka $(LIBS)

$(FUZZ): build/%: t/%.c $(PLAIN_C) $(HEADERS)
	@mkdir -p $(@D)
	clang -g -O1 $(WARNINGS) $(SANITIZE) -fsanitize=fuzzer \
		-Ingx_vd_module -o $@ $< $(PLAIN_C) $(LIBS)

unit: deps $(UNIT)
	@for test in $(UNIT); do $$test || exit; done
	/usr/bin/python3 -B -m unittest build-aux/test_build.py demo/test_*.py
	prove t/lib/selftest.t

fuzz: deps $(FUZZ)
	@printf '%s\n' $(FUZZ:build/fuzz/fuzz_%=%) | xargs -P $$(nproc) -I NAME \
		build-aux/fuzz NAME $(FUZZ_SECONDS)


# Python's bytecode is kept out of the tree.

sidecar: deps build
	PYTHONPYCACHEPREFIX=$(CURDIR)/build/pycache NGINX_BINARY=$(NGINX_BINARY) \
		/usr/bin/python3 -m pytest -q -n $(JOBS) sidecar/tests


# What it takes beside Chromium comes by a lock file, and stays in build/.

BROWSER = build/browser/unpacked

$(BROWSER): sidecar/browser/package-lock.json sidecar/browser/package.json
	@mkdir -p build/browser
	@cp $^ build/browser
	build-aux/npm-packages build/browser
	@touch $@

browser: deps build $(BROWSER)
	NGINX_BINARY=$(NGINX_BINARY) PYTHONPYCACHEPREFIX=$(CURDIR)/build/pycache \
		node sidecar/browser/test.mjs build/browser


PYTHON = $(call files,python3,*.py)

NGX_INCS = $(addprefix -Ibuild/module/,src/core src/event src/event/modules \
	src/event/quic src/os/unix src/http src/http/modules src/http/v2 \
	src/http/v3 objs)

lint: deps build
	@build-aux/check-style $(NGX_C) $(PLAIN_C) $(TEST_C) $(HEADERS)
	@cppcheck --quiet --std=c11 --enable=warning,performance,portability \
		--suppress=normalCheckLevelMaxBranches --max-configs=1 \
		--suppress=toomanyconfigs --suppress='*:build/module/*' \
		--error-exitcode=1 $(NGX_INCS) $(NGX_C) $(PLAIN_C)
	@# it also counts what it found in the headers of others
	@printf '%s\n' $(NGX_C) | xargs -n 1 -P $(JOBS) sh -c \
		'clang-tidy --quiet $$1 -- $(NGX_INCS)' sh \
		2> >(grep -v 'warnings generated' >&2)
	@printf '%s\n' $(PLAIN_C) | xargs -n 1 -P $(JOBS) sh -c \
		'clang-tidy --quiet $$1 -- $(WARNINGS)' sh \
		2> >(grep -v 'warnings generated' >&2)
	@black --quiet --check $(PYTHON)
	@pyflakes3 $(PYTHON)
	@for dir in $(sort $(dir $(PYTHON))); do \
		MYPYPATH=sidecar/tests:sidecar mypy --config-file=sidecar/mypy.ini \
			--scripts-are-modules --cache-dir=build/mypy \
			$$(tr ' ' '\n' <<< '$(PYTHON)' | grep "^$$dir[^/]*$$") \
			|| exit; \
	done
	@shellcheck $(call files,sh|bash,*.sh)


# At a terminal it stays up until Ctrl-C; ONCE=1 has it end by itself.

demo: build
	@build-aux/install-packages $(SIDECAR_PACKAGES) curl python3-aiosmtpd
	@demo/run --nginx $(NGINX_BINARY)

bench: deps build
	bench/run $(BENCH)


# For Debian's nginx as its own modules are installed: there is a snippet to load
# it, and a link to the snippet enables it.

MODULES_DIR ?= /usr/lib/nginx/modules
SNIPPET_DIR  = /usr/share/nginx/modules-available
ENABLED_DIR  = $(DESTDIR)/etc/nginx/modules-enabled

install: build
	install -D -m 644 -t $(DESTDIR)$(MODULES_DIR) $(MODULE)
ifneq ($(FOR_DEBIAN),)
	install -d $(DESTDIR)$(SNIPPET_DIR) $(ENABLED_DIR)
	echo 'load_module modules/$(notdir $(MODULE));' \
		> $(DESTDIR)$(SNIPPET_DIR)/mod-http-vd.conf
	ln -sfn $(SNIPPET_DIR)/mod-http-vd.conf \
		$(ENABLED_DIR)/50-mod-http-vd.conf
	@echo
	@echo 'To take it into use: nginx -t && systemctl reload nginx'
	@echo 'To take it out again: rm $(ENABLED_DIR)/50-mod-http-vd.conf'
else
	@echo
	@echo 'To take it into use, at the beginning of nginx.conf:'
	@echo 'load_module $(MODULES_DIR)/$(notdir $(MODULE));'
endif


# The sidecar, with its unit, its user, and the journal's directory for both.  The
# configuration that is there is left as it is.

SIDECAR_DIR = $(DESTDIR)/usr/share/vd
SYSTEM_DIR  = $(DESTDIR)/usr/lib
SIDECAR_CONF = $(DESTDIR)/etc/vd/vd-sidecar.toml

install-sidecar:
	[ -n "$(DESTDIR)" ] || { build-aux/install-packages $(SIDECAR_PACKAGES) \
		&& build-aux/sidecar-user; }
	cd sidecar && find vd_sidecar -type f ! -path '*/__pycache__/*' \
		-exec install -D -m 644 {} $(abspath $(SIDECAR_DIR))/{} \;
	install -D -m 755 -t $(DESTDIR)/usr/bin sidecar/vd-sidecar
	install -D -m 644 -t $(SYSTEM_DIR)/systemd/system sidecar/vd-sidecar.service
	install -D -m 644 sidecar/vd-sidecar.sysusers \
		$(SYSTEM_DIR)/sysusers.d/vd-sidecar.conf
	install -D -m 644 sidecar/vd-sidecar.tmpfiles \
		$(SYSTEM_DIR)/tmpfiles.d/vd-sidecar.conf
	[ -e $(SIDECAR_CONF) ] || install -D -m 644 \
		sidecar/vd-sidecar.toml.example $(SIDECAR_CONF)
	@echo
	@echo 'Next: vd_journal /var/spool/vd in nginx, edit $(SIDECAR_CONF), then'
	@echo 'sudo -u vd vd-sidecar check && systemctl enable --now vd-sidecar'


clean:
	rm -rf build
