"""Fail if a test was skipped in every run that collected it.

    python3 .ci/check_skips.py run-1.xml run-2.xml ...

The files are JUnit reports of pytest. Tests that need a GPU are excused: the reason of one of
their skips contains ``needs a CUDA GPU``. An empty set of parameters is no test, if the function
ran with others in another run. A test that failed as expected did run. One with a
skipped subtest counts as skipped: a report does not tell the two apart.

The last line counts each test once, however many runs it was in.
"""

import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict

EXCUSE = "needs a CUDA GPU"
#: What pytest calls a parameter of an empty set.
NO_PARAMETER = "NOTSET"


def read_report(path: str) -> "tuple[dict[str, str | None], dict[str, str], set[str]]":
    """Read one report.

    Returns:
        For each test the reason of its skip, or None if it ran; the same for each module that
        was skipped as a whole; the tests that failed.
    """
    tests: "dict[str, str | None]" = {}
    modules: "dict[str, str]" = {}
    failed: "set[str]" = set()
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        classname, name = case.get("classname", ""), case.get("name", "")
        skip = case.find("skipped")
        reason = None if skip is None else f"{skip.get('message', '')} {skip.text or ''}"
        if skip is not None and skip.get("type") == "pytest.xfail":
            reason = None
        # A module whose import skips is a case of its own: the module's name, in no class.
        if not classname and reason is not None:
            modules[name] = reason
            continue
        key = f"{classname}::{name}"
        if case.find("failure") is not None or case.find("error") is not None:
            failed.add(key)
        # A name can come twice; it ran if one of them did.
        if key in tests and tests[key] is None:
            reason = None
        tests[key] = reason
    return tests, modules, failed


def main(paths: "list[str]") -> int:
    ran: "set[str]" = set()
    skips: "dict[str, list[str]]" = defaultdict(list)
    module_skips: "dict[str, list[str]]" = defaultdict(list)
    failed: "set[str]" = set()
    for path in paths:
        tests, modules, failures = read_report(path)
        failed |= failures
        if not tests:
            print(f"no test in {path}")
            return 1
        for key, reason in tests.items():
            if reason is None:
                ran.add(key)
            else:
                skips[key].append(reason)
        for name, reason in modules.items():
            module_skips[name].append(reason)

    # A module that was imported in another run is judged there, test by test. Its tests are in
    # it or in a class in it.
    collected = [key.split("::")[0] + "." for key in ran | skips.keys()]
    for name, reasons in module_skips.items():
        if not any(prefix.startswith(name + ".") for prefix in collected):
            skips[name] = reasons

    never_ran = {key: reasons for key, reasons in skips.items() if key not in ran}
    functions = {key.partition("[")[0] for key in ran}
    for key in list(never_ran):
        function, _, parameters = key.partition("[")
        if NO_PARAMETER in parameters and function in functions:
            del never_ran[key]
    excused = {key for key, reasons in never_ran.items() if any(EXCUSE in r for r in reasons)}
    nowhere = sorted(never_ran.keys() - excused)
    for key in nowhere:
        print(f"skipped in every run: {key}")
        for reason in sorted({" ".join(reason.split()) for reason in never_ran[key]}):
            print(f"    {reason}")
    bad = len(failed) + len(nowhere)
    print(f"{len(ran - failed)} passed, {bad} failed, {len(excused)} skipped")
    return 1 if nowhere or failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
