#!/usr/bin/env python3
"""Makes mutants of the library and runs the tests that should kill them; tests/mutations/run.sh calls it.

A mutant is a record in FOLDER.txt, which has those of include/lora/FOLDER. An empty line ends it.

    adapted_off_keeps_bias                           its name
    Off keeps the bias that the adapter trained.     the bug
    test: adapters/adapted_test.cpp *bias*           below tests/; and a Catch2 filter, if not all of it is needed
    file: include/lora/adapters/adapted.hpp          and then lines as in a diff, but without numbers:
     const BiasVector* bias() const {                what begins with a space or - is in the file exactly once,
    -  if (enabled_ && trained_bias_) {              and what begins with a space or + takes its place
    +  if (trained_bias_) {

Another "file:", perhaps of the same file, is another change of the same mutant. Lines with a space are only needed where
those with - are in the file more than once, or where there are none. A record that is not like this is an error, whichever
mutants are chosen; all such errors are reported before anything is compiled. Fails when a chosen mutant survives or does
not compile, or when a test fails without any.
"""

import argparse
import datetime
import filecmp
import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build/mutations"
TREE = BUILD / "tree"
COPIED = "include tests benchmarks/support examples/support examples/data CMakeLists.txt".split()
TIMEOUT = 300  # seconds for a test


RECORD = re.compile(r"(\w+)\n(?!test: )(.+)\ntest: (\S+)(?: (.+))?\nfile: ((?:.|\n)+)")


class Mutant:
    """ValueError says what is wrong with the record."""

    def __init__(self, record, folder):
        parts = RECORD.fullmatch(record)
        if not parts:
            raise ValueError("expected a line each with a name, the bug, test: and file:, then what changes")
        self.record, self.folder = record, folder
        self.name, _, self.test, self.filter, changes = parts.groups()
        if not (ROOT / "tests" / self.test).is_file():
            raise ValueError(f"there is no tests/{self.test}")
        self.files = {}  # with the bug
        for change in re.split(r"(?m)^file: ", changes):
            file, *lines = change.removesuffix("\n").split("\n")
            if not (ROOT / file).is_file():
                raise ValueError(f"there is no {file}")
            self.files[file] = changed(self.files.get(file) or read(ROOT / file), lines, file)
        if not changes.startswith(f"include/lora/{folder}/"):
            raise ValueError(f"its file is not in include/lora/{folder}")


def changed(text, lines, file):
    for line in lines:
        if line[0] not in " -+":
            raise ValueError(f"expected a space, - or + before: {line}")
    text = text.split("\n")
    old = [line[1:] for line in lines if line[0] != "+"]
    new = [line[1:] for line in lines if line[0] != "-"]
    if old == new:
        raise ValueError(f"changes nothing in {file}")
    if not old:
        raise ValueError(f"does not say where in {file} to insert")
    places = [i for i in range(len(text)) if text[i:i + len(old)] == old]
    if len(places) != 1:
        raise ValueError(f"{len(places)} times in {file}: " + "\n".join(old))
    return "\n".join(text[:places[0]] + new + text[places[0] + len(old):])


def read(path):
    return path.read_bytes().decode()


def records(text):
    return [record for record in re.split(r"\n{2,}", text.strip("\n")) if record]


def read_all():
    """All mutants by name, and what is wrong with any of them."""
    mutants, problems = {}, []
    for path in sorted(HERE.glob("*.txt")):
        for record in records(read(path)) if path.name != "CMakeLists.txt" else []:
            name = record.split("\n")[0]
            try:
                if name in mutants:
                    raise ValueError(f"this name is also in {mutants[name].folder}.txt")
                mutants[name] = Mutant(record, path.stem)
            except ValueError as error:
                problems.append(f"{path.name}: {name}: {error}")
    return [mutants[name] for name in sorted(mutants)], problems


def git(*arguments):
    result = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise ValueError(result.stderr.strip())
    return result.stdout


def since(commit, mutants):
    """Those whose files, test or own record are not as they were in the commit, by default the last tag."""
    if commit is None:
        try:
            commit = git("describe", "--tags", "--abbrev=0").strip()
        except ValueError:
            print("There is no tag, so all count as changed")
            return mutants
    paths = git("diff", "--name-only", "--no-renames", "--relative", commit).splitlines()
    paths += git("ls-files", "--others", "--exclude-standard").splitlines()
    known = set()
    for path in git("ls-tree", "--name-only", commit, f"{HERE.relative_to(ROOT)}/").splitlines():
        if path.endswith(".txt"):
            known.update(records(git("show", f"{commit}:./{path}")))
    return [
        mutant for mutant in mutants
        if mutant.record not in known or not {f"tests/{mutant.test}", *mutant.files}.isdisjoint(paths)
    ]


def choose(mutants, options):
    unknown = set(options.names) - {mutant.name for mutant in mutants}
    if unknown:
        raise ValueError(f"there is no mutant {', '.join(sorted(unknown))}")
    if options.names:
        mutants = [mutant for mutant in mutants if mutant.name in options.names]
    if options.folder:
        if not (ROOT / "include/lora" / options.folder).is_dir():
            raise ValueError(f"there is no include/lora/{options.folder}")
        mutants = [mutant for mutant in mutants if mutant.folder == options.folder]
    if options.since is not False:
        mutants = since(options.since, mutants)
    if options.some and len(mutants) > 2:
        first = int(datetime.date.today().strftime("%j")) * 2
        mutants = [mutants[(first + k) % len(mutants)] for k in range(2)]
    return mutants


def copy_tree():
    """Files that have not changed keep their times, so that a second run compiles little."""
    wanted = set()
    for part in COPIED:
        for path in [ROOT / part, *(ROOT / part).rglob("*")]:
            if path.is_file():
                copy = TREE / path.relative_to(ROOT)
                wanted.add(copy)
                if not copy.is_file() or not filecmp.cmp(path, copy, shallow=False):
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
    for path in TREE.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()


def succeeds(command, log, timeout=None):
    with open(BUILD / log, "wb") as out:
        try:
            return subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, timeout=timeout).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def end_of(log):
    return "\n".join((BUILD / log).read_text(errors="replace").splitlines()[-30:])


def configure(mutants):
    sources = ";".join(sorted({mutant.test for mutant in mutants}))
    command = ["cmake", "-S", HERE, "-B", BUILD / "objects", f"-Dtree={TREE}", f"-Dsources={sources}",
               "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0"]
    if not succeeds(command, "configure.log"):
        sys.exit(end_of("configure.log"))


def target(test):
    return re.sub(r"[^A-Za-z0-9]", "_", test)


def compiles(test):
    return succeeds(["cmake", "--build", BUILD / "objects", "--target", target(test)], "compile.log")


def passes(test, only):
    command = [BUILD / "objects" / target(test)] + ([only] if only else [])
    # Without a test that the filter lets through, Catch2 is content.
    return succeeds(command, "test.log", TIMEOUT) and not re.search(r"(?m)^No tests? ", end_of("test.log"))


def verdict_on(mutant):
    """Of a mutant whose test passes without it: whether it is killed, and the verdict in words."""
    before = {file: (TREE / file).read_bytes() for file in mutant.files}
    try:
        for file, text in mutant.files.items():
            (TREE / file).write_bytes(text.encode())
        if not compiles(mutant.test):
            print(end_of("compile.log"))
            return False, "does not compile"
        if passes(mutant.test, mutant.filter):
            return False, f"SURVIVES {mutant.test}"
        return True, f"killed by {mutant.test}"
    finally:
        for file, content in before.items():
            (TREE / file).write_bytes(content)


def run(mutants):
    """Whether all are killed. Mutants of the same test come together, so that it is run once without any."""
    copy_tree()
    configure(mutants)
    killed = 0
    for test, group in groupby(sorted(mutants, key=lambda mutant: mutant.test), lambda mutant: mutant.test):
        group = list(group)
        fails = {}
        if compiles(test):
            for only in dict.fromkeys(mutant.filter for mutant in group):
                fails[only] = not passes(test, only)
                if fails[only]:
                    print(end_of("test.log"))
        else:
            print(end_of("compile.log"))
        for mutant in group:
            good, verdict = False, "its test fails without it"
            if not fails.get(mutant.filter, True):
                good, verdict = verdict_on(mutant)
            killed += good
            print(f"{mutant.name:44} {verdict}", flush=True)
    print(f"\n{killed} of {len(mutants)} mutants killed")
    return killed == len(mutants)


def main():
    parser = argparse.ArgumentParser(prog="tests/mutations/run.sh",
                                     description="Each option makes the choice of mutants smaller.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="these mutants (default all)")
    parser.add_argument("--folder", metavar="NAME", help="those of include/lora/NAME")
    parser.add_argument("--since", nargs="?", default=False, metavar="COMMIT",
                        help="those whose files, test or record have changed since COMMIT (default the last tag, "
                             "or if there is none, all)")
    parser.add_argument("--some", action="store_true", help="two of them, others every day")
    parser.add_argument("--check", action="store_true", help="only see whether all can be made, chosen or not")
    options = parser.parse_args()

    mutants, problems = read_all()
    if problems:
        sys.exit("\n".join(problems))
    try:
        chosen = choose(mutants, options)
    except ValueError as error:
        parser.error(str(error))
    if options.check or not chosen:
        print(f"{len(mutants)} mutants can be made, {len(chosen)} of them chosen")
        return
    sys.exit(not run(chosen))


if __name__ == "__main__":
    main()
