"""``python -m tests.deploy.standalone PORT ROWS SECONDS``: a service in a process of its own, which a test may kill.

Every call of its network costs so many seconds, whatever its rows.
"""

import dataclasses
import sys
import time

from ani_jax.deploy import service
from tests.deploy.conftest import SPEC, network


def main(port, rows, seconds):
    def slow(z):
        time.sleep(seconds)
        return network(z)

    model = service.Model(dataclasses.replace(SPEC, rows=rows), slow)
    server, listener = service.listening(service.application([model], service.Limits(rate=0)), port=port)
    print(listener.getsockname()[1], flush=True)
    server.run([listener])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
