import pytest

from pipecrypt.errors import KeyReferenceError
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.schemes.aws_kms import check_endpoint, is_same_key, parse_key_arn, read_reference

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
MULTI = "arn:aws:kms:{region}:{account}:key/mrk-1234abcd12ab34cd56ef1234567890ab"


def test_forms() -> None:
    for text, name, arn, region in (
        (f"aws-kms://{ARN}", ARN, ARN, "eu-west-1"),
        (f"aws-kms://{ARN}?region=eu-west-1", ARN, ARN, "eu-west-1"),
        ("aws-kms://alias/pii/a_b-c?region=eu-west-1", "alias/pii/a_b-c", None, "eu-west-1"),
        ("aws-kms://alias/pii", "alias/pii", None, None),
        ("aws-kms://1234abcd-12ab-34cd-56ef-1234567890ab", "1234abcd-12ab-34cd-56ef-1234567890ab", None, None),
        ("AWS-KMS://arn:aws-us-gov:kms:us-gov-west-1:111122223333:alias/pii",
         "arn:aws-us-gov:kms:us-gov-west-1:111122223333:alias/pii", None, "us-gov-west-1"),
    ):  # fmt: skip
        place = read_reference(parse_key_reference(text))
        assert (place.name, place.arn, place.region) == (name, arn, region)
        assert place.max_calls_per_second == 50
        assert place.endpoint is place.profile is None


def test_options() -> None:
    text = (
        "aws-kms://alias/pii?profile=ops&endpoint=https%3A%2F%2Fvpce.example&max_calls_per_second=0.5&region=us-east-1"
    )
    place = read_reference(parse_key_reference(text))
    assert (place.profile, place.endpoint, place.region) == ("ops", "https://vpce.example", "us-east-1")
    assert place.max_calls_per_second == 0.5


@pytest.mark.parametrize(
    "text",
    [
        "aws-kms://alias/pii?regoin=eu-west-1",
        "aws-kms://alias/pii?region=eu west",
        "aws-kms://alias/pii?region=eu-west-1&region=eu-west-2",
        "aws-kms://alias/pii#1",
        "aws-kms://alias/",
        "aws-kms://alias/p%20ii",
        "aws-kms://arn:aws:kms:eu-west-1:11112222333:key/a",
        "aws-kms://arn:aws:s3:eu-west-1:111122223333:key/a",
        "aws-kms://arn:aws:kms:eu-west-1:111122223333:key/",
        f"aws-kms://{ARN}?region=us-east-1",
        f"aws-kms://{ARN}%0a",
        "aws-kms://-abc",
        "aws-kms://alias/pii?max_calls_per_second=0",
        "aws-kms://alias/pii?max_calls_per_second=-1",
        "aws-kms://alias/pii?max_calls_per_second=nan",
        "aws-kms://alias/pii?max_calls_per_second=inf",
        "aws-kms://alias/pii?max_calls_per_second=many",
        "aws-kms://alias/pii?endpoint=http://kms.example",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(KeyReferenceError) as caught:
        read_reference(parse_key_reference(text))
    assert caught.value.exit_code == 2


def test_keys_in_the_clear_travel_over_tls_only() -> None:
    for url in ("https://kms.eu-west-1.amazonaws.com", "http://127.0.0.1:4566", "http://localhost", "http://[::1]:1"):
        check_endpoint(url, "aws-kms://alias/pii")
    for url in ("http://kms.example", "http://10.0.0.1", "http://localhost.example", "ftp://localhost", "kms", "",
                "https://", "https://[", "https://user:pass@kms.example", "http://127.0.0.1@kms.example"):  # fmt: skip
        with pytest.raises(KeyReferenceError):
            check_endpoint(url, "aws-kms://alias/pii")


def test_arns_of_keys() -> None:
    assert parse_key_arn(ARN) == ARN
    for other in (None, 7, "", "alias/pii", ARN.replace(":key/", ":alias/"), ARN + "\n", "x" + ARN):
        assert parse_key_arn(other) is None


def test_which_keys_open_for_which() -> None:
    here, there = (MULTI.format(region=region, account="111122223333") for region in ("eu-west-1", "us-east-1"))
    assert is_same_key(here, there)
    assert is_same_key(there, here)
    for other in (
        MULTI.format(region="us-east-1", account="444455556666"),
        there.replace("arn:aws:", "arn:aws-cn:"),
        there[:-1] + "c",
        ARN,
    ):
        assert parse_key_arn(other) == other
        assert not is_same_key(here, other)
    assert not is_same_key(ARN, ARN.replace("eu-west-1", "us-east-1"))
