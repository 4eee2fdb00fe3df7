"""What the Hugging Face hub lists, and whether it knows a token."""

import json
import logging
from collections.abc import Iterator

import pytest
from huggingface_hub import HfApi

from common.catalog.huggingface import HUGGINGFACE, OPENVINO
from common.errors import (
    HubUnavailable,
    InvalidParameters,
    RateLimited,
    SourceNotFound,
    SourceUnsafe,
    StageError,
    TokenInvalid,
)
from common.plugins import Access, ListItem, ListPage, ListQuery, NetworkRules
from tests.fakes.faults import (
    Drop,
    Fault,
    FaultKind,
    RedirectLoop,
    RedirectTo,
    RewriteJson,
    SetHeader,
    Status,
    rate_limited,
)
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.proxy import ForwardProxy
from tests.fakes.traffic import Match
from tests.names import plainly
from worker.hubs.huggingface import HuggingFaceHub

TOKEN = "hf_0123456789abcdef"
SLUG = "acme/best-0123456789abcdef01234567"
CARD = b"---\nlicense: mit\npipeline_tag: text-generation\nlibrary_name: transformers\ntags:\n- tiny\n---\n"


def safetensors(*types: str) -> bytes:
    header = {f"w{number}": {"dtype": kind, "shape": [2], "data_offsets": [0, 0]} for number, kind in enumerate(types)}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.fixture
def fake() -> Iterator[FakeHuggingFace]:
    """Twelve models of two authors, on pages of five."""
    with FakeHuggingFace() as fake:
        for number in range(10):
            fake.add_repo(f"acme/bert-{number}", {"README.md": CARD}, facts={"downloads": number, "likes": 2})
        fake.add_repo(
            "other/llama", {"README.md": CARD.replace(b"tiny", b"huge")}, gated="manual", facts={"downloads": 50}
        )
        fake.add_repo("lone", {"model.safetensors": safetensors("F16", "BF16", "F16")})
        fake.add_repo("acme/secret", {}, private=True, facts={"downloads": 99})
        fake.add_collection(SLUG, ["acme/bert-3", "other/llama", "acme/secret", "acme/bert-1", "lone"])
        fake.tokens[TOKEN] = {"acme/secret"}
        yield fake


def hub_at(fake: FakeHuggingFace, token: str | None = None, rules: NetworkRules | None = None) -> HuggingFaceHub:
    secrets = {} if token is None else {"HF_TOKEN": token}
    return HuggingFaceHub(
        Access(settings={"HF_ENDPOINT": fake.endpoint}, secrets=secrets, network=rules or NetworkRules())
    )


def listed(
    fake: FakeHuggingFace, *, limit: int = 50, offset: int = 0, token: str | None = None, **filters: object
) -> ListPage:
    return hub_at(fake, token).list(ListQuery(filters=filters, limit=limit, offset=offset))


def names(page: ListPage) -> list[str]:
    return [item.name for item in page.items]


class TestListing:
    def test_the_most_downloaded_come_first(self, fake: FakeHuggingFace) -> None:
        page = listed(fake)
        assert names(page) == ["other/llama", *(f"acme/bert-{number}" for number in range(9, -1, -1)), "lone"][:12]
        assert (page.has_more, page.total) == (False, None)

    def test_an_item_says_what_a_client_wants_to_know(self, fake: FakeHuggingFace) -> None:
        found = {item.name: item for item in listed(fake).items}
        llama, lone = found["other/llama"], found["lone"]
        assert llama == ListItem(
            name="other/llama",
            owner="other",
            tags=llama.tags,
            model_type="text-generation",
            last_modified="2025-01-02T03:04:05+00:00",
            metadata={"downloads": 50, "likes": 0, "library_name": "transformers"},
            license="mit",
            gated="manual",
            requires_token=True,
        )
        assert {"huge", "license:mit"} <= set(llama.tags or ())
        assert (lone.precisions, lone.gated, lone.requires_token) == (("BF16", "F16"), False, False)
        assert lone.metadata == {"downloads": 0, "likes": 0}

    @pytest.mark.parametrize(("limit", "offset"), [(3, 0), (3, 3), (4, 8), (5, 5), (1, 11), (12, 0), (11, 0), (5, 40)])
    def test_pages_fit_together(self, fake: FakeHuggingFace, limit: int, offset: int) -> None:
        everything = names(listed(fake))
        page = listed(fake, limit=limit, offset=offset)
        assert names(page) == everything[offset : offset + limit]
        assert page.has_more == (offset + limit < len(everything))

    def test_no_more_is_asked_for_than_is_needed(self, fake: FakeHuggingFace) -> None:
        listed(fake, limit=3, offset=3)
        calls = fake.requests.matching("/api/models")
        assert len(calls) == 2
        assert calls[0].query["limit"] == ["7"]
        assert calls[0].query["sort"] == ["downloads"]

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"author": "other"}, ["other/llama"]),
            ({"search": "BERT-1"}, ["acme/bert-1"]),
            ({"author": "acme", "search": "bert-2"}, ["acme/bert-2"]),
            ({"tags": ["huge", "license:mit"]}, ["other/llama"]),
            ({"tags": "huge, transformers"}, ["other/llama"]),
            ({"tags": ["huge", "tiny"]}, []),
            ({"author": "nobody"}, []),
            ({"search": " ", "author": None, "tags": []}, None),
        ],
    )
    def test_filters(self, fake: FakeHuggingFace, filters: dict[str, object], expected: list[str] | None) -> None:
        page = listed(fake, **filters)
        assert names(page) == expected if expected is not None else len(page.items) == 12

    @pytest.mark.parametrize(
        "filters", [{"author": 5}, {"search": ["a"]}, {"tags": 5}, {"tags": ["a", 5]}, {"collection": {"a": 1}}]
    )
    def test_filters_of_another_type_are_refused(self, fake: FakeHuggingFace, filters: dict[str, object]) -> None:
        with pytest.raises(InvalidParameters, match=next(iter(filters))):
            listed(fake, **filters)
        assert len(fake.requests) == 0

    def test_an_offset_beyond_reason_is_refused(self, fake: FakeHuggingFace) -> None:
        with pytest.raises(InvalidParameters, match="10000"):
            listed(fake, offset=10**9)
        assert len(fake.requests) == 0

    def test_a_private_model_is_seen_with_its_token_only(self, fake: FakeHuggingFace) -> None:
        assert "acme/secret" not in names(listed(fake))
        page = listed(fake, token=TOKEN)
        assert names(page)[0] == "acme/secret"
        assert page.items[0].requires_token is True

    def test_it_agrees_with_the_hubs_own_library(self, fake: FakeHuggingFace) -> None:
        api = HfApi(endpoint=fake.endpoint, token=False)
        theirs = list(api.list_models(author="acme", sort="downloads", filter="tiny"))
        ours = listed(fake, author="acme", tags="tiny")
        assert names(ours) == [model.id for model in theirs]
        assert [(item.metadata or {})["downloads"] for item in ours.items] == [model.downloads for model in theirs]

    def test_names_that_cannot_be_downloaded_are_left_out(self, fake: FakeHuggingFace) -> None:
        def lie(document: object) -> object:
            assert isinstance(document, list)
            return [{"id": name} for name in ("../../etc", "a/b/c", "fine/name", "x" * 300)]

        fake.add_fault(Fault(kind=RewriteJson(lie), match=Match("/api/models")))
        assert names(listed(fake, limit=4)) == ["fine/name"]


class TestCollections:
    def test_a_collection_keeps_its_order(self, fake: FakeHuggingFace) -> None:
        page = listed(fake, collection=SLUG)
        assert names(page) == ["acme/bert-3", "other/llama", "acme/bert-1", "lone"]
        assert (page.has_more, page.total) == (False, 4)
        assert (page.items[1].gated, page.items[1].model_type) == ("manual", "text-generation")
        assert names(listed(fake, collection=SLUG, token=TOKEN))[2] == "acme/secret"

    def test_it_is_paged(self, fake: FakeHuggingFace) -> None:
        page = listed(fake, collection=SLUG, limit=2, offset=1)
        assert names(page) == ["other/llama", "acme/bert-1"]
        assert page.has_more

    def test_it_agrees_with_the_hubs_own_library(self, fake: FakeHuggingFace) -> None:
        theirs = HfApi(endpoint=fake.endpoint, token=False).get_collection(SLUG)
        assert names(listed(fake, collection=SLUG)) == [item.item_id for item in theirs.items]

    @pytest.mark.parametrize("slug", ["acme/none-0123", "nonsense", "../../api/models", "a/b/c", "a/b?c", "a/.."])
    def test_one_that_is_none_is_not_found(self, fake: FakeHuggingFace, slug: str) -> None:
        with pytest.raises(SourceNotFound):
            listed(fake, collection=slug)

    def test_other_filters_do_not_go_with_it(self, fake: FakeHuggingFace) -> None:
        with pytest.raises(InvalidParameters, match="stands alone"):
            listed(fake, collection=SLUG, author="acme")

    @pytest.mark.parametrize("document", [[], {}, {"items": 5}, {"items": [{}]}, {"items": [5]}, None], ids=plainly)
    def test_an_answer_without_sense_is_trouble(self, fake: FakeHuggingFace, document: object) -> None:
        fake.add_fault(Fault(kind=RewriteJson(lambda _: document), match=Match("/api/collections/*")))
        with pytest.raises(HubUnavailable):
            listed(fake, collection=SLUG)


class TestTrouble:
    @pytest.mark.parametrize("collection", [None, SLUG])
    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            (Status(401), TokenInvalid),
            (Status(403), HubUnavailable),
            (Status(404), SourceNotFound),
            (rate_limited(9), RateLimited),
            (Status(500), HubUnavailable),
            (Status(503), HubUnavailable),
            (Drop(), HubUnavailable),
            (RedirectLoop(), HubUnavailable),
            (RewriteJson(lambda _: "text"), HubUnavailable),
            (RewriteJson(lambda _: [5]), HubUnavailable),
        ],
        ids=plainly,
    )
    def test_each_kind_has_its_own_error(
        self, fake: FakeHuggingFace, collection: str | None, kind: FaultKind, error: type[StageError]
    ) -> None:
        fake.add_fault(Fault(kind=kind, match=Match("/api/*")))
        with pytest.raises(error) as caught:
            listed(fake, collection=collection)
        assert caught.type is error

    def test_a_token_that_the_hub_does_not_know_is_invalid(self, fake: FakeHuggingFace) -> None:
        with pytest.raises(TokenInvalid) as caught:
            listed(fake, token="hf_unknown0123")
        assert "hf_unknown0123" not in str(caught.value)

    def test_a_listing_without_end_ends(self, fake: FakeHuggingFace) -> None:
        fake.add_fault(
            Fault(kind=SetHeader("Link", f'<{fake.endpoint}/api/models>; rel="next"'), match=Match("/api/models"))
        )
        fake.add_fault(Fault(kind=RewriteJson(lambda _: []), match=Match("/api/models")))
        with pytest.raises(SourceUnsafe, match="no end"):
            listed(fake)

    def test_the_token_follows_neither_pages_nor_redirects_elsewhere(self, fake: FakeHuggingFace) -> None:
        with FakeHuggingFace() as other:
            other.add_repo("other/one", {})
            next_page = SetHeader("Link", f'<{other.endpoint}/api/models>; rel="next"')
            armed = fake.add_fault(Fault(kind=next_page, match=Match("/api/models")))
            listed(fake, token=TOKEN)
            fake.remove_fault(armed)
            fake.add_fault(Fault(kind=RedirectTo(f"{other.endpoint}/api/models"), match=Match("/api/models")))
            listed(fake, token=TOKEN)
            assert other.requests.count("/api/models") == 2
            assert not any(request.had_authorization for request in other.requests)

    def test_a_page_inside_another_network_is_not_asked_for(self, fake: FakeHuggingFace) -> None:
        next_page = SetHeader("Link", '<http://169.254.169.254/latest/meta-data>; rel="next"')
        fake.add_fault(Fault(kind=next_page, match=Match("/api/models")))
        with pytest.raises(SourceUnsafe, match="private network"):
            listed(fake)


class TestTokens:
    def test_a_token_that_the_hub_knows_passes(self, fake: FakeHuggingFace) -> None:
        hub_at(fake, TOKEN).check_credentials()
        hub_at(fake, f" {TOKEN}\n").check_credentials()
        assert [request.path for request in fake.requests] == ["/api/whoami-v2"] * 2

    def test_another_one_does_not(self, fake: FakeHuggingFace) -> None:
        with pytest.raises(TokenInvalid, match="HF_TOKEN") as caught:
            hub_at(fake, "hf_unknown0123").check_credentials()
        assert "hf_unknown0123" not in str(caught.value)

    @pytest.mark.parametrize("token", [None, "", " "])
    def test_none_at_all_is_invalid_and_nobody_is_asked(self, fake: FakeHuggingFace, token: str | None) -> None:
        with pytest.raises(TokenInvalid, match="no HF_TOKEN"):
            hub_at(fake, token).check_credentials()
        assert len(fake.requests) == 0

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            (Status(403), TokenInvalid),
            (Status(404), HubUnavailable),
            (Status(503), HubUnavailable),
            (rate_limited(9), RateLimited),
            (RewriteJson(lambda _: []), HubUnavailable),
            (Drop(), HubUnavailable),
        ],
        ids=plainly,
    )
    def test_trouble_is_no_verdict(self, fake: FakeHuggingFace, kind: FaultKind, error: type[StageError]) -> None:
        fake.add_fault(Fault(kind=kind, match=Match("/api/whoami-v2")))
        with pytest.raises(error) as caught:
            hub_at(fake, TOKEN).check_credentials()
        assert caught.type is error

    def test_without_a_token_none_of_this_machine_is_shown(
        self, fake: FakeHuggingFace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        listed(fake)
        listed(fake, collection=SLUG)
        assert not any(request.had_authorization for request in fake.requests)

    def test_the_token_is_logged_nowhere(self, fake: FakeHuggingFace, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        hub_at(fake, TOKEN).check_credentials()
        listed(fake, token=TOKEN)
        assert TOKEN not in caplog.text
        assert all(request.had_authorization for request in fake.requests)


def test_a_listing_goes_through_the_hubs_proxy(fake: FakeHuggingFace) -> None:
    with ForwardProxy() as proxy:
        page = hub_at(fake, rules=NetworkRules(proxy=proxy.address)).list(ListQuery(filters={"author": "other"}))
        assert names(page) == ["other/llama"]
        assert len(proxy.asked) == len(fake.requests) == 1


def test_the_descriptors_say_so() -> None:
    assert HUGGINGFACE.listing_filters == {"author", "search", "tags", "collection"}
    assert OPENVINO.listing_filters is None
    for plugin in (HUGGINGFACE, OPENVINO):
        assert [key.name for key in plugin.config_keys] == ["HF_TOKEN"]
        assert plugin.config_keys[0].sensitive
        assert plugin.checks_credentials
