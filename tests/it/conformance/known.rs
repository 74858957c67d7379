//! Known differences between the doubles, with their reasons.

/// One question that the doubles answer differently.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) question: &'static str,
    pub(super) sandbox: &'static str,
    pub(super) ministack: &'static str,
    /// Which double is right, and why the other differs.
    #[expect(dead_code, reason = "documentation for the reader")]
    pub(super) reason: &'static str,
}

pub(super) const KNOWN_DIFFERENCES: &[Known] = &[
    Known {
        question: "copy: in the customer's role",
        sandbox: "ok etag Some(\"\\\"a9f0e61a137d86aa9db53465e0801612\\\"\"), version of the source true",
        ministack: "404 NoSuchBucket",
        reason: "ministack looks for both buckets of a copy in one account, after it has checked the policies of both.",
    },
    Known {
        question: "copy: into the customer's bucket",
        sandbox: "ok etag Some(\"\\\"a9f0e61a137d86aa9db53465e0801612\\\"\"), version of the source true",
        ministack: "404 NoSuchBucket",
        reason: "ministack looks for both buckets of a copy in one account.",
    },
    Known {
        question: "copy: with a wrong owner",
        sandbox: "403 AccessDenied",
        ministack: "ok etag Some(\"\\\"a9f0e61a137d86aa9db53465e0801612\\\"\"), version of the source true",
        reason: "ministack ignores x-amz-source-expected-bucket-owner.",
    },
    Known {
        question: "copy: to a key that is too long",
        sandbox: "400 KeyTooLongError",
        ministack: "ok etag Some(\"\\\"a9f0e61a137d86aa9db53465e0801612\\\"\"), version of the source true",
        reason: "ministack does not check the length of a copy's key; AWS takes 1,024 bytes.",
    },
    Known {
        question: "copy: a missing object, without s3:ListBucket",
        sandbox: "403 AccessDenied",
        ministack: "404 NoSuchKey",
        reason: "AWS reports a missing object as 404 only to callers that may list the bucket.",
    },
    Known {
        question: "dynamodb: batch, a key of the wrong type",
        sandbox: "ok ValidationError",
        ministack: "ok made of the table",
        reason: "ministack does not check the types of keys in statements; in AWS a key has its table's type.",
    },
    Known {
        question: "dynamodb: batch, a parameter too many",
        sandbox: "ok ValidationError",
        ministack: "ok made of the table",
        reason: "AWS's message is that the numbers do not match; that AWS takes a parameter too many is not documented.",
    },
    Known {
        question: "dynamodb: batch, no parameter",
        sandbox: "400 ValidationException",
        ministack: "ok ValidationError",
        reason: "An empty list of parameters breaks AWS's model, which refuses the call; ministack counts them.",
    },
    Known {
        question: "dynamodb: batch, two statements about an item",
        sandbox: "400 ValidationException",
        ministack: "ok made of the table; DuplicateItem of the table",
        reason: "AWS documents nothing. The sandbox refuses the call as DynamoDB local does, so that nobody relies on either.",
    },
    Known {
        question: "event: version",
        sandbox: "\"2.1\"",
        ministack: "\"2.6\"",
        reason: "Both are 2.x; a reader must rely only on the major version.",
    },
    Known {
        question: "logs: create a group with a blank in its name",
        sandbox: "400 InvalidParameterException",
        ministack: "ok",
        reason: "ministack does not check names; AWS refuses such names.",
    },
    Known {
        question: "logs: create a stream with a colon in its name",
        sandbox: "400 InvalidParameterException",
        ministack: "ok",
        reason: "ministack does not check names; AWS refuses such names.",
    },
    Known {
        question: "logs: filter, the first",
        sandbox: "ok [(-3600000, \"app-pod-2026-11-21\", \"d\")], token true",
        ministack: "ok [(-3600000, \"app-pod-2026-11-21\", \"d\")], token false",
        reason: "ministack leaves out the rest; AWS answers with a token for the next page.",
    },
    Known {
        question: "logs: put 10,001 events",
        sandbox: "400 InvalidParameterException",
        ministack: "ok a token",
        reason: "ministack checks none of the limits of PutLogEvents; AWS takes at most 10,000 events.",
    },
    Known {
        question: "logs: put a byte too much",
        sandbox: "400 InvalidParameterException",
        ministack: "ok a token",
        reason: "ministack checks none of the limits of PutLogEvents; AWS takes at most 1,048,576 bytes.",
    },
    Known {
        question: "logs: put events more than a day apart",
        sandbox: "400 InvalidParameterException",
        ministack: "ok a token",
        reason: "ministack checks none of the limits of PutLogEvents; AWS takes events within 24 hours.",
    },
    Known {
        question: "logs: put an empty message",
        sandbox: "400 InvalidParameterException",
        ministack: "ok a token",
        reason: "ministack does not check lengths; AWS's model asks for at least one character.",
    },
    Known {
        question: "logs: put nothing",
        sandbox: "400 InvalidParameterException",
        ministack: "ok a token",
        reason: "ministack does not check lengths; AWS's model asks for at least one event.",
    },
    Known {
        question: "logs: put an event and one too new",
        sandbox: "ok a token, too new from Some(1), too old to None, expired to None",
        ministack: "ok a token",
        reason: "ministack keeps every event; AWS rejects events that are more than two hours ahead.",
    },
    Known {
        question: "logs: put out of order",
        sandbox: "400 InvalidParameterException",
        ministack: "ok a token",
        reason: "ministack does not check the order; AWS refuses the batch.",
    },
    Known {
        question: "logs: put too old",
        sandbox: "ok a token, too new from None, too old to Some(1), expired to None",
        ministack: "ok a token",
        reason: "ministack keeps every event; AWS rejects events that are older than 14 days.",
    },
    Known {
        question: "s3: get a version that never existed",
        sandbox: "400 InvalidArgument",
        ministack: "404 NoSuchVersion",
        reason: "AWS checks the form of a version id first, and this id is malformed.",
    },
    Known {
        question: "s3: get with a wrong owner",
        sandbox: "403 AccessDenied",
        ministack: "ok Some(10) bytes, range None, etag Some(\"\\\"781e5e245d69b566979b86e28d23f2c7\\\"\"), modified true, version true",
        reason: "ministack ignores x-amz-expected-bucket-owner.",
    },
    Known {
        question: "s3: list",
        sandbox: "ok [\"listing/a+b%2Bc%25 (Some(10), true, true)\", \"listing/b%C3%A4 (Some(10), true, true)\", \"listing/c%01 (Some(10), true, true)\", \"listing/d/e (Some(10), true, true)\"], more Some(false), encoded Some(Url)",
        ministack: "ok [\"listing/a%20b%2Bc%25 (Some(10), true, true)\", \"listing/b%C3%A4 (Some(10), true, true)\", \"listing/c%01 (Some(10), true, true)\", \"listing/d/e (Some(10), true, true)\"], more Some(false), encoded Some(Url)",
        reason: "AWS encodes a space as in its events; both forms are read.",
    },
    Known {
        question: "s3: list a page",
        sandbox: "ok [\"listing/a+b%2Bc%25 (Some(10), true, true)\", \"listing/b%C3%A4 (Some(10), true, true)\"], more Some(true), encoded Some(Url)",
        ministack: "ok [\"listing/a%20b%2Bc%25 (Some(10), true, true)\", \"listing/b%C3%A4 (Some(10), true, true)\"], more Some(true), encoded Some(Url)",
        reason: "AWS encodes a space as in its events; both forms are read.",
    },
    Known {
        question: "s3: list with a wrong owner",
        sandbox: "403 AccessDenied",
        ministack: "ok [\"listing/a%20b%2Bc%25 (Some(10), true, true)\", \"listing/b%C3%A4 (Some(10), true, true)\", \"listing/c%01 (Some(10), true, true)\", \"listing/d/e (Some(10), true, true)\"], more Some(false), encoded Some(Url)",
        reason: "ministack ignores x-amz-expected-bucket-owner.",
    },
    Known {
        question: "sqs: delete a deleted message",
        sandbox: "ok 1 went well,",
        ministack: "ok 0 went well, 0: ReceiptHandleIsInvalid, sender true",
        reason: "AWS accepts the delete of a deleted message; ministack forgets the receipt.",
    },
    Known {
        question: "sqs: hide for more than 12 h",
        sandbox: "ok 0: InvalidParameterValue, sender true",
        ministack: "ok 0: ReceiptHandleIsInvalid, sender true",
        reason: "ministack checks the receipt before the timeout, and the message is deleted here.",
    },
    Known {
        question: "sqs: hide a deleted message",
        sandbox: "ok 0: InvalidParameterValue, sender true",
        ministack: "ok 0: ReceiptHandleIsInvalid, sender true",
        reason: "For a message that is no longer in flight AWS returns InvalidParameterValue; ministack forgets the receipt.",
    },
    Known {
        question: "sqs: poll for 21 s",
        sandbox: "400 InvalidParameterValue",
        ministack: "ok Some(\"x\") [] [], md5 true",
        reason: "ministack does not check the range; AWS takes 20 s at most.",
    },
    Known {
        question: "sqs: send an empty attribute",
        sandbox: "400 InvalidParameterValue",
        ministack: "ok",
        reason: "ministack accepts it; AWS requires a value.",
    },
    Known {
        question: "sts: a short session name",
        sandbox: "400 ValidationError",
        ministack: "ok assumed-role/plain/x, 60 min, key ASIA, source identity None",
        reason: "ministack does not check session names; AWS asks for 2 to 64 characters.",
    },
    Known {
        question: "sts: an illegal session name",
        sandbox: "400 ValidationError",
        ministack: "ok assumed-role/plain/a b, 60 min, key ASIA, source identity None",
        reason: "ministack does not check session names.",
    },
    Known {
        question: "sts: less than 15 minutes",
        sandbox: "400 ValidationError",
        ministack: "ok assumed-role/plain/logferry-acme, 15 min, key ASIA, source identity None",
        reason: "ministack rounds up; AWS refuses.",
    },
    Known {
        question: "sts: more than an hour",
        sandbox: "400 ValidationError",
        ministack: "ok assumed-role/plain/logferry-acme, 60 min, key ASIA, source identity None",
        reason: "ministack shortens it; AWS refuses more than an hour for a chained role.",
    },
    Known {
        question: "sts: source identity allowed",
        sandbox: "ok assumed-role/liberal/logferry-acme, 60 min, key ASIA, source identity Some(\"me\")",
        ministack: "ok assumed-role/liberal/logferry-acme, 60 min, key ASIA, source identity None",
        reason: "ministack does not know SourceIdentity.",
    },
    Known {
        question: "sts: source identity not allowed",
        sandbox: "403 AccessDenied",
        ministack: "ok assumed-role/plain/logferry-acme, 60 min, key ASIA, source identity None",
        reason: "ministack does not know SourceIdentity and needs no sts:SetSourceIdentity.",
    },
];
