"""Links that stay until they are taken down, for experiments by hand.

python -m benchmarks.links up FOLDER       serve FOLDER's files, print how to be a client, and check each link
python -m benchmarks.links down
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.links import LINKS, LinksUnavailableError, Network


def main(arguments: list[str]) -> int:
    match arguments:
        case ["up", folder]:
            network = Network(Path(folder), LINKS, tag="kept")
            network.down()
            network.up()
            for name, measured in network.check().items():
                print(name, *(f"{key}={value}" for key, value in measured.items()))
                print("   ", *network.command(name), "curl", network.url(name, "WORD", "NAME"))
            return 0
        case ["down"]:
            Network(Path(), LINKS, tag="kept").down()
            return 0
    print(__doc__)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LinksUnavailableError as error:
        sys.exit(f"links: {error}")
