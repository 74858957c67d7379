//! The objects that the command line names.

use std::{collections::HashSet, fs, path::Path};

use crate::{
    cli::Refusal,
    event::ObjectRef,
    manual::{Item, Origin},
    route::Rules,
};

const SCHEME: &str = "s3://";
const VERSION: &str = "?versionId=";

/// Whether an argument names a local file.
pub(super) fn is_file(argument: &str) -> bool {
    !argument.contains("://")
}

/// Reads the arguments. `keys` are the keys of the local files.
///
/// # Errors
/// An argument or a key cannot be used, or a file cannot be read.
pub(super) fn from_arguments(
    arguments: &[String],
    keys: &[String],
    key_rules: &Rules,
) -> Result<Vec<Item>, Refusal> {
    let files = arguments.iter().filter(|argument| is_file(argument)).count();
    if !keys.is_empty() && keys.len() != files {
        let (keys, problem) = (keys.len(), "give --key once for each file, in order");
        return Err(Refusal::Usage(format!("{keys} keys and {files} local files: {problem}")));
    }
    let (mut keys, mut used) = (keys.iter(), HashSet::new());
    let mut items = Vec::new();
    for argument in arguments {
        if !is_file(argument) {
            items.push(Item { object: from_url(argument)?, origin: Origin::Url });
            continue;
        }
        let key = match keys.next() {
            Some(key) => key.clone(),
            None => argument.trim_start_matches("./").to_owned(),
        };
        if let Err(error) = key_rules.route(&key) {
            let problem = match key == *argument || argument.ends_with(&key) {
                true => format!(
                    "the path of {argument:?} is not a key of an object ({error}); give the key with --key"
                ),
                false => format!("--key {key:?} does not match source.key_layout: {error}"),
            };
            return Err(Refusal::Usage(problem));
        }
        if !used.insert(key.clone()) {
            return Err(Refusal::Usage(format!("two files have the key {key:?}")));
        }
        let path = Path::new(argument);
        match fs::File::open(path).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err(Refusal::NotFound(format!("{argument:?} is not a file"))),
            Err(error) => return Err(Refusal::NotFound(format!("{argument:?} cannot be read: {error}"))),
        }
        let object = ObjectRef { key, ..ObjectRef::default() };
        items.push(Item { object, origin: Origin::File(path.to_owned()) });
    }
    Ok(items)
}

/// Reads `s3://BUCKET/KEY`, with `?versionId=ID` after the key if one version is meant. The key is not encoded.
fn from_url(url: &str) -> Result<ObjectRef, Refusal> {
    let bad = |problem: &str| Refusal::Usage(format!("{url:?} {problem}; an object is s3://BUCKET/KEY"));
    let rest = url.strip_prefix(SCHEME).ok_or_else(|| bad("does not begin with s3://"))?;
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if bucket.len() < 3 || bucket.len() > 63 || !bucket.chars().all(legal) {
        return Err(bad("has no legal name of a bucket"));
    }
    let (key, version) = match key.rsplit_once(VERSION) {
        Some((_, "")) => return Err(bad("has an empty version")),
        Some((key, version)) => (key, Some(version.to_owned())),
        None => (key, None),
    };
    match key {
        "" => Err(bad("names no key")),
        key if key.ends_with('/') => Err(bad("is a prefix, not an object")),
        key => Ok(ObjectRef {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version_id: version,
            ..ObjectRef::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::KeyLayout;

    fn items(arguments: &[&str], keys: &[&str]) -> Result<Vec<Item>, Refusal> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let layout = KeyLayout::parse(KeyLayout::DEFAULT).expect("the default is right");
        from_arguments(&owned(arguments), &owned(keys), &layout.into())
    }

    #[test]
    fn urls_name_objects() {
        let check = |url: &str, key: &str, version: Option<&str>| {
            let item = items(&[url], &[]).unwrap_or_else(|error| panic!("{error}")).remove(0);
            let ObjectRef { bucket, key: found, version_id, .. } = item.object;
            assert_eq!((bucket.as_str(), found.as_str(), version_id.as_deref()), ("staging", key, version));
            assert_eq!(item.origin, Origin::Url);
        };
        check("s3://staging/a/b/c/d/e.json.gz", "a/b/c/d/e.json.gz", None);
        check("s3://staging/a b/c+%2B?/d", "a b/c+%2B?/d", None);
        check("s3://staging/a?versionId=v1", "a", Some("v1"));
        for (url, problem) in [
            ("s3://", "bucket"),
            ("s3://staging", "no key"),
            ("s3://staging/", "no key"),
            ("s3://staging/a/", "prefix"),
            ("s3://staging/a?versionId=", "empty version"),
            ("s3:///a", "bucket"),
            ("s3://Staging/a", "bucket"),
            ("https://staging/a", "s3://"),
        ] {
            let refusal = items(&[url], &[]).expect_err(url);
            assert!(matches!(&refusal, Refusal::Usage(text) if text.contains(problem)), "{refusal:?}");
        }
    }

    #[test]
    fn files_need_a_key_that_matches_the_layout() {
        let (file, key) = ("Cargo.toml", "acme/prod-1/web/web-0/1.json");
        let found = items(&[file, "s3://staging/a"], &[key]).expect("the file exists");
        assert_eq!((found[0].object.key.as_str(), found[0].object.bucket.as_str()), (key, ""));
        assert_eq!(found[0].origin, Origin::File("Cargo.toml".into()));
        let check = |arguments: &[&str], keys: &[&str], code: u8, problem: &str| {
            let refusal = items(arguments, keys).expect_err(problem);
            assert_eq!(refusal.exit_code(), code, "{refusal}");
            assert!(refusal.to_string().contains(problem), "{refusal}");
        };
        check(&[file], &[], 2, "give the key with --key");
        check(&["/a/b/c/d/e"], &[], 2, "give the key with --key");
        check(&[file], &["acme/1.json"], 2, "source.key_layout");
        check(&[file], &[key, key], 2, "once for each file");
        check(&[file, file], &[key, key], 2, "two files");
        check(&["./a/b/c/d/e"], &[], 66, "cannot be read");
        check(&["src"], &[key], 66, "is not a file");
    }
}
