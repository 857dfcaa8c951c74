"""Ask whether vulnerabilities of the installed packages are known: make audit.

    python tests/audit.py PIP_AUDIT SITE_PACKAGES

Exit status 0: none is known. 1: some are, one line each. 2: the answer could not be had, which one line says; pip-audit
itself calls this "no known vulnerabilities" where the service answers that it knows no package.
"""

# ruff: noqa: T201 (a script prints)

import json
import subprocess
import sys
from typing import Any

__all__ = ["verdict"]

QUIET = ("--format", "json", "--progress-spinner", "off", "--timeout", "15")


def verdict(said: str, complaint: str) -> tuple[int, list[str]]:
    """Exit status and lines for what pip-audit wrote to its standard output and error."""
    try:
        packages: list[dict[str, Any]] = json.loads(said)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = (complaint.strip().splitlines() or ["it said nothing"])[-1][:200]
        return 2, [f"not audited: pip-audit had no answer from the vulnerability service ({reason})"]
    audited = [each for each in packages if "vulns" in each]
    if not audited:
        return 2, [f"not audited: the vulnerability service has no answer about any of the {len(packages)} packages"]
    found = [
        f"{each['name']} {each['version']}: {one['id']}, mended in {', '.join(one['fix_versions']) or 'no version'}"
        for each in audited
        for one in each["vulns"]
    ]
    left = [each["name"] for each in packages if "vulns" not in each]
    apart = f"; not audited: {', '.join(left)}" if left else ""
    return int(bool(found)), [*found, f"{len(audited)} packages, {len(found)} known vulnerabilities{apart}"]


def main() -> None:
    program, packages = sys.argv[1:]
    done = subprocess.run([program, *QUIET, "--path", packages], capture_output=True, text=True, check=False)
    status, lines = verdict(done.stdout, done.stderr)
    print("\n".join(lines))
    sys.exit(status)


if __name__ == "__main__":
    main()
