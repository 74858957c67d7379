//! Operators' commands with the credentials of a profile.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{operator, setup::Setup};

/// A home directory with an operator's AWS configuration. Dropping it removes the directory.
struct Home {
    setup: Setup,
    folder: PathBuf,
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Home {
    /// Creates the home of an operator of the provider's account, whose table has one tenant.
    async fn new(name: &str) -> Self {
        let setup = Setup::new(name).await;
        setup.customer("acme").await;
        let folder = std::env::temp_dir().join(format!("logferry-{name}-{}", std::process::id()));
        std::fs::create_dir_all(folder.join(".aws/sso/cache")).expect("a folder of the test's own");
        Self { setup, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("UTF-8").to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.folder.join(name), text).expect("the folder is the test's own");
        self.path(name)
    }

    /// Keys of the account's root, the same on both emulators.
    fn keys(&self) -> (&str, &'static str) {
        (&self.setup.provider.account, "test")
    }

    /// The keys in the form of a profile.
    fn static_keys(&self) -> String {
        let (id, secret) = self.keys();
        format!("aws_access_key_id = {id}\naws_secret_access_key = {secret}\n")
    }

    /// An environment that names AWS's endpoint and the table, but no key and no Region.
    fn environment(&self, more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let fixed = [
            ("HOME", self.folder.to_str().expect("UTF-8")),
            ("AWS_ENDPOINT_URL", &self.setup.aws.endpoint),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("TENANT_CONFIG_TABLE", &self.setup.provider.tenant_table),
        ];
        fixed.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    async fn list(&self, more: &[(&str, &str)]) -> operator::Ended {
        operator::run(&["tenant", "list", "--json"], &self.environment(more)).await
    }

    /// Lists the tenants with this profile.
    async fn lists_by(&self, profile: &str) {
        let listed = self.list(&[("AWS_PROFILE", profile)]).await.with(0).json();
        assert!(listed.to_string().contains("acme"), "{listed}");
    }

    /// Returns the line that says why there are no credentials.
    async fn refusal(&self, more: &[(&str, &str)]) -> String {
        let ended = self.list(more).await;
        assert_ne!(ended.code, Some(0), "{ended:?}");
        let lines: Vec<_> = ended.stderr.lines().filter(|line| line.starts_with("logferry: ")).collect();
        let [line] = lines[..] else { panic!("expected one line: {ended:?}") };
        line.to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_chained_roles_are_taken_from_profiles() {
    let home = Home::new("profiles").await;
    let role = &home.setup.provider.worker_role_arn;
    let chained = format!("role_arn = {role}\nsource_profile = keys\n");
    let text = format!(
        "[default]\nregion = us-east-1\n{keys}[profile worker]\nregion = us-east-1\n{chained}",
        keys = home.static_keys(),
    );
    let config = home.write(".aws/config", &text);
    let credentials = home.write(".aws/credentials", &format!("[keys]\n{}", home.static_keys()));
    home.list(&[]).await.with(0);
    let assumed = || home.setup.sandbox().map(|sandbox| sandbox.calls("sts", "AssumeRole"));
    let before = assumed();
    home.lists_by("worker").await;
    assert_eq!(assumed(), before.map(|before| before + 1));
    home.list(&[("AWS_PROFILE", "keys"), ("AWS_REGION", "us-east-1")]).await.with(0);

    // The same files at other paths.
    let [elsewhere, keys] = ["elsewhere", "keys"].map(|name| home.path(name));
    std::fs::rename(config, &elsewhere).expect("the file exists");
    std::fs::rename(credentials, &keys).expect("the file exists");
    let files = [("AWS_CONFIG_FILE", elsewhere.as_str()), ("AWS_SHARED_CREDENTIALS_FILE", keys.as_str())];
    home.list(&[&files[..], &[("AWS_PROFILE", "worker")]].concat()).await.with(0);

    let missing = [&files[..], &[("AWS_PROFILE", "nobody"), ("AWS_REGION", "us-east-1")]].concat();
    let line = home.refusal(&missing).await;
    assert!(line.contains("profile \"nobody\" is not in AWS's configuration files"), "{line}");
    let line = home.refusal(&[("AWS_REGION", "us-east-1"), ("HOME", "/nowhere")]).await;
    assert!(line.contains("there are no credentials") && line.contains("AWS_PROFILE"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_can_come_from_a_process() {
    let home = Home::new("process").await;
    let (id, secret) = home.keys();
    let good = home.write(
        "good",
        &format!("echo '{{\"Version\":1,\"AccessKeyId\":\"{id}\",\"SecretAccessKey\":\"{secret}\"}}'\n"),
    );
    let bad = home.write("bad", "echo 'the vault is locked' >&2\nexit 3\n");
    let profile = |name: &str, script: &str| {
        format!("[profile {name}]\nregion = us-east-1\ncredential_process = /bin/sh {script}\n")
    };
    home.write(".aws/config", &[profile("good", &good), profile("bad", &bad)].concat());
    home.lists_by("good").await;
    let line = home.refusal(&[("AWS_PROFILE", "bad")]).await;
    assert!(line.contains("profile \"bad\"") && line.contains("the vault is locked"), "{line}");
}

/// File of the cached token. AWS's programs name it by the SHA-1 of the session's name, here "work".
const TOKEN: &str = ".aws/sso/cache/e274eeff768c6396088ec6eb091f4bf4d47ab1e0.json";

/// A profile that signs in with IAM Identity Center.
fn sso(home: &Home) -> String {
    let account = &home.setup.provider.account;
    format!(
        "[profile work]\nregion = us-east-1\nsso_session = work\nsso_account_id = {account}\nsso_role_name = Operator\n\
         [sso-session work]\nsso_region = us-east-1\nsso_start_url = https://work.awsapps.com/start\n"
    )
}

/// No build signs in by `aws login`. A build without the feature `sso` answers to a profile of IAM Identity Center in the same
/// way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_needs_another_sign_in_names_the_alternative() {
    let home = Home::new("login").await;
    let account = &home.setup.provider.account;
    let profile =
        format!("[profile work]\nregion = us-east-1\nlogin_session = arn:aws:iam::{account}:user/operator\n");
    home.write(".aws/config", &profile);
    let line = home.refusal(&[("AWS_PROFILE", "work")]).await;
    for words in
        ["profile \"work\"", "aws login", "aws configure export-credentials --profile work --format env"]
    {
        assert!(line.contains(words), "{words:?} is not in {line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_center_is_called_through_the_proxy_with_the_cached_token() {
    use axum::{Router, extract::Request, routing::get};

    use crate::outbound::Proxy;

    let home = Home::new("sso").await;
    home.write(".aws/config", &sso(&home));
    let (account, secret) = home.keys();
    let answer = serde_json::json!({ "roleCredentials": {
        "accessKeyId": account, "secretAccessKey": secret,
        "expiration": jiff::Timestamp::now().as_millisecond() + 3_600_000,
    } });
    let wanted = format!("account_id={account}");
    let portal = async move |request: Request| {
        assert_eq!(request.headers()["x-amz-sso_bearer_token"], "token");
        let query = request.uri().query().unwrap_or_default();
        assert!(query.contains(&wanted) && query.contains("role_name=Operator"), "{query}");
        answer.to_string()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("the listener is bound");
    let router = Router::new().route("/federation/credentials", get(portal));
    tokio::spawn(async move { axum::serve(listener, router).await });
    // Only the proxy can resolve the portal's name.
    let proxy = Proxy::start(address, address).await;
    let url = proxy.url();
    let more = [
        ("AWS_PROFILE", "work"),
        ("AWS_ENDPOINT_URL_SSO", "http://portal.internal"),
        ("HTTP_PROXY", url.as_str()),
    ];

    let line = home.refusal(&more).await;
    assert!(line.contains("profile \"work\"") && line.contains("aws sso login --profile work"), "{line}");
    home.write(TOKEN, r#"{"accessToken": "token", "expiresAt": "2999-01-01T00:00:00Z"}"#);
    let listed = home.list(&more).await.with(0).json();
    assert!(listed.to_string().contains("acme"), "{listed}");
    assert_eq!(proxy.targets(), ["portal.internal"]);
}
