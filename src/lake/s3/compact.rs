//! The compaction's calls.

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::{Delete, EncodingType, ObjectIdentifier},
};
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use super::{S3Lake, lock_end, lock_mode};
use crate::{
    copy::{
        CopyError,
        s3::{S3Copier, refused, session},
    },
    credentials::scope::Scope,
    event::decode_key,
    lake::{
        FileSpec,
        bucket::{CompactAccount, CompactStore, LakeRow, ListedFile, Listing, ReadObject, Unwanted},
    },
    name::MANIFESTS,
    route::Route,
};

/// Most keys of one DeleteObjects. Source: S3 API reference, DeleteObjects.
const MAX_DELETED: usize = 1000;

impl CompactStore for S3Copier {
    async fn enter_compaction(&self, row: &LakeRow<'_>) -> Result<S3Lake, CopyError> {
        let LakeRow { delivery, destination, lake } = *row;
        let route = Route { tenant: delivery.tenant_id.clone(), ..Route::default() };
        let prefix = &destination.bucket_prefix;
        let entry = destination.role.as_ref().map(|role| {
            let scope = Scope::Compact {
                bucket: destination.bucket_name.clone(),
                files: prefix.clone() + &lake.layout.tenant_prefix(&route),
                manifests: format!("{prefix}{MANIFESTS}/"),
            };
            session(delivery, destination, role, "", scope)
        });
        S3Lake::enter(self, entry, delivery, destination).await
    }
}

fn incomplete(what: &str) -> CopyError {
    CopyError::Unavailable(format!("the answer of S3 has no {what}"))
}

/// A refusal that means: there is no such object, or the condition does not hold.
fn absent<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    match error.code() {
        Some(code) => {
            matches!(code, "NoSuchKey" | "NotFound" | "PreconditionFailed" | "ConditionalRequestConflict")
        }
        None => matches!(status, Some(404 | 412)),
    }
}

/// An object of DeleteObjects that S3 did not delete.
fn undeleted(code: Option<String>, message: Option<String>, key: Option<String>) -> CopyError {
    let text = Option::unwrap_or_default;
    let problem = format!("{}: {} ({:?})", text(code.clone()), text(message), text(key));
    match code.as_deref() {
        Some("AccessDenied") => CopyError::Denied(problem),
        _ => CopyError::Unavailable(problem),
    }
}

impl CompactAccount for S3Lake {
    async fn list(&self, prefix: &str, token: Option<String>) -> Result<Listing, CopyError> {
        // XML 1.0 has no form for some characters that keys may have.
        let list = call!(
            self.list_objects_v2()
                .prefix(prefix)
                .delimiter("/")
                .encoding_type(EncodingType::Url)
                .set_continuation_token(token.clone())
        );
        let page = list.await.map_err(refused)?;
        let encoded = page.encoding_type == Some(EncodingType::Url);
        let decoded = |key: Option<String>| {
            let key = key.ok_or_else(|| incomplete("key of an object"))?;
            if encoded {
                decode_key(&key).map_err(|error| CopyError::Unavailable(error.to_string()))
            } else {
                Ok(key)
            }
        };
        let files = page.contents.unwrap_or_default().into_iter().map(|object| {
            Ok(ListedFile {
                size: object.size.and_then(|size| size.try_into().ok()).unwrap_or_default(),
                etag: object.e_tag.ok_or_else(|| incomplete("eTag of an object"))?,
                key: decoded(object.key)?,
            })
        });
        let folders =
            page.common_prefixes.unwrap_or_default().into_iter().map(|folder| decoded(folder.prefix));
        Ok(Listing {
            files: files.collect::<Result<_, CopyError>>()?,
            folders: folders.collect::<Result<_, _>>()?,
            next: page.next_continuation_token.filter(|_| page.is_truncated == Some(true)),
        })
    }

    async fn get(&self, key: &str, etag: Option<&str>) -> Result<Option<ReadObject>, CopyError> {
        let object = match call!(self.get_object().key(key).set_if_match(etag.map(str::to_owned))).await {
            Ok(object) => object,
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(refused(error)),
        };
        let etag = object.e_tag.ok_or_else(|| incomplete("eTag"))?;
        let modified = object.last_modified.and_then(|at| Timestamp::from_second(at.secs()).ok());
        // Into one buffer: `collect` would hold all bytes twice for a moment.
        let length = object.content_length.and_then(|length| length.try_into().ok()).unwrap_or_default();
        let (mut body, mut stream) = (BytesMut::with_capacity(length), object.body);
        while let Some(chunk) = stream.next().await {
            let broken = |error| CopyError::Unavailable(format!("the body of {key:?} broke: {error}"));
            body.extend_from_slice(&chunk.map_err(broken)?);
        }
        Ok(Some(ReadObject { etag, modified, body: body.freeze() }))
    }

    async fn put_if(
        &self,
        file: &FileSpec,
        body: Bytes,
        etag: Option<&str>,
    ) -> Result<Option<String>, CopyError> {
        let put = put!(
            self.put_object(file)
                .set_if_match(etag.map(str::to_owned))
                .set_if_none_match(etag.is_none().then(|| "*".to_owned()))
                .body(body.clone().into())
        );
        match put.await {
            Ok(put) => put.e_tag.map(Some).ok_or_else(|| incomplete("eTag")),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }

    async fn delete(&self, files: &[Unwanted]) -> Result<Vec<String>, CopyError> {
        let mut stay = Vec::new();
        for files in files.chunks(MAX_DELETED) {
            let object = |file: &Unwanted| {
                ObjectIdentifier::builder().key(&file.key).set_e_tag(file.etag.clone()).build()
            };
            let objects = files.iter().map(object);
            let objects = objects.collect::<Result<Vec<_>, _>>().expect("each has a key");
            let delete =
                Delete::builder().set_objects(Some(objects)).quiet(true).build().expect("it has objects");
            let deleted = call!(self.delete_objects().delete(delete.clone())).await.map_err(refused)?;
            for error in deleted.errors.unwrap_or_default() {
                match (error.code.as_deref(), error.key) {
                    (Some("PreconditionFailed" | "ConditionalRequestConflict"), Some(key)) => stay.push(key),
                    // With an eTag, an object that does not exist is an error.
                    (Some("NoSuchKey" | "NotFound"), _) => {}
                    (_, key) => return Err(undeleted(error.code, error.message, key)),
                }
            }
        }
        Ok(stay)
    }
}
