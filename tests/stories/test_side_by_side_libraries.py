"""Plugins that vendor the library which the manager itself uses, in versions of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts import BareHost
from tests.publishing.helpers import make_wheel
from tests.wheels import wheels
from tests.world import World

FETCH = """
import requests, urllib3
from urllib3.util.retry import Retry

def fetch(url):
    with requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=Retry(total=1)))
        answer = session.get(url, timeout=30)
    return [requests.__version__, urllib3.__version__, answer.status_code,
            answer.request.headers["User-Agent"]]
"""

VERSIONS = {"old": ("2.28.2", "1.26.20"), "new": ("2.31.0", "2.0.7")}


@pytest.mark.network
def test_each_plugin_and_the_host_use_their_own_requests(world: World, tmp_path: Path) -> None:
    for name, (requests, urllib3) in VERSIONS.items():
        wheel = make_wheel(
            tmp_path / name,
            f"fetch_{name}",
            files={f"fetch_{name}.py": FETCH},
            requires=[f"requests=={requests}", f"urllib3=={urllib3}"],
            entry_points=f"[app.fetch]\n{name} = fetch_{name}:fetch\n",
        )
        taken = wheels(f"requests=={requests}", f"urllib3=={urllib3}")
        world.repository.publish(wheel, publisher="acme", with_dependencies=taken)
    with world.online() as url:
        world.manager().install("acme/fetch-old", "acme/fetch-new")
        found = BareHost(tmp_path / "host").json(
            """
import json, sys
from plugin_manager import PluginManager
store, root, url = sys.argv[1:]
manager = PluginManager.open(store, url, root=root)
manager.update()  # with the host's own requests
out = {}
for name in ("old", "new"):
    plugin = manager.load(f"acme/fetch-{name}")
    [entry] = plugin.entry_points_in("app.fetch")
    out[name] = [*entry.load()(url + "metadata/1.root.json"), sorted(plugin.isolated)]
import requests
manager.update()
out["host"] = [requests.__version__, sorted(plugin.shared)]
print(json.dumps(out))
""",
            str(world.directory / "store"),
            str(world.root),
            url,
        )
    assert isinstance(found, dict)
    for name, (requests, urllib3) in VERSIONS.items():
        agent = f"python-requests/{requests}"
        assert found[name] == [requests, urllib3, 200, agent, ["requests", "urllib3"]]
    version, shared = found["host"]
    assert version not in {requests for requests, _ in VERSIONS.values()}
    assert "idna" in shared
