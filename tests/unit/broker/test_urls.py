from __future__ import annotations

import pytest

from broker.db.urls import Sentinels, celery_options, celery_url, sentinels_of, without_password


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://h:1/0", None),
        ("unix:///tmp/x.sock?db=1", None),
        ("sentinel://h/m", Sentinels((("h", 26379),), "m", 0, None, None)),
        ("redis+sentinel://h/m/", Sentinels((("h", 26379),), "m", 0, None, None)),
        (
            "sentinel://u:p%2Fw@a:1,b,[::1]:2/my%20master/3",
            Sentinels((("a", 1), ("b", 26379), ("::1", 2)), "my master", 3, "u", "p/w"),
        ),
        (
            "sentinel://:pw@a/m?sentinel_username=su&sentinel_password=sp",
            Sentinels((("a", 26379),), "m", 0, None, "pw", (("password", "sp"), ("username", "su"))),
        ),
        (
            "rediss+sentinel://a/m?ssl_ca_certs=%2Fca.pem&ssl_check_hostname=false&sentinel_password=sp",
            Sentinels(
                (("a", 26379),),
                "m",
                0,
                None,
                None,
                (("password", "sp"),),
                (("ssl_ca_certs", "/ca.pem"), ("ssl_cert_reqs", "required"), ("ssl_check_hostname", False)),
            ),
        ),
    ],
)
def test_reading_a_sentinel_address(url: str, found: Sentinels | None) -> None:
    assert sentinels_of(url) == found


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://a:26379;sentinel://b:26379",
        "sentinel://a:26379",
        "sentinel:///m",
        "sentinel://a/m/x",
        "sentinel://a:port/m",
        "sentinel://a/m?ssl=true",
        "rediss+sentinel://a/m?ssl_nothing=1",
        "sentinel://a/m?ssl_ca_certs=x",
        "http://a",
        "localhost:6379",
    ],
)
def test_what_cannot_be_read_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        celery_url(url)


@pytest.mark.parametrize(
    ("url", "kombus"),
    [
        ("redis://:pw@h:1/2", "redis://:pw@h:1/2"),
        ("rediss://h", "rediss://h?ssl_cert_reqs=required"),
        ("unix:///tmp/x.sock?db=1", "redis+socket:///tmp/x.sock?virtual_host=1"),
        ("sentinel://a:1,b/m", "sentinel://a:1/0"),
        ("sentinel://u:p%2Fw@[::1]:1,b/m/3", "sentinel://u:p%2Fw@[::1]:1/3"),
    ],
)
def test_kombus_form(url: str, kombus: str) -> None:
    assert celery_url(url) == kombus


def test_kombu_is_told_of_every_sentinel() -> None:
    url = "sentinel://a:1,b/m?sentinel_password=sp"
    options = celery_options(url)
    assert options == {
        "sentinels": sentinels_of(url),
        "master_name": "m",
        "sentinel_kwargs": {"password": "sp"},
    }
    assert celery_options("redis://h") == {}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("unix:///tmp/x.sock?db=1", "unix:///tmp/x.sock?db=1"),
        ("redis://u:secret@h/0", "redis://u:***@h/0"),
        ("unix://u:secret@/tmp/x.sock?db=1", "unix://u:***@/tmp/x.sock?db=1"),
        ("redis://h/0?password=secret&db=1", "redis://h/0?password=***&db=1"),
        (
            "sentinel://:secret@a:1,b:2/m/0?sentinel_password=secret",
            "sentinel://:***@a:1,b:2/m/0?sentinel_password=***",
        ),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
