//! Uploads the bytes of one file: by one request, or part by part if the file is large.

use bytes::Bytes;

use super::{FileSpec, LakeAccount, Part, Upload};
use crate::copy::CopyError;

/// Smallest part of an upload besides the last one. Source: S3 User Guide, "Amazon S3 multipart upload limits".
pub(super) const MIN_PART: usize = 5 << 20;

/// A file that is being written. It appears whole, by [`Parts::finish`], or not at all.
#[derive(Debug)]
pub(super) struct Parts {
    spec: FileSpec,
    /// `None`: nothing was written.
    upload: Option<(Upload, Vec<Part>)>,
    /// Bytes that were written.
    written: u64,
}

impl Parts {
    pub(super) fn new(spec: FileSpec) -> Self {
        Self { spec, upload: None, written: 0 }
    }

    pub(super) fn key(&self) -> &str {
        &self.spec.key
    }

    /// Writes the next part. It must have at least [`MIN_PART`] bytes.
    pub(super) async fn write<A: LakeAccount>(&mut self, account: &A, body: Bytes) -> Result<(), CopyError> {
        if self.upload.is_none() {
            let id = account.begin(&self.spec).await?;
            self.upload = Some((Upload { key: self.spec.key.clone(), id }, Vec::new()));
        }
        self.written += body.len() as u64;
        let (upload, parts) = self.upload.as_mut().expect("the upload has begun");
        parts.push(account.part(upload, parts.len() as i32 + 1, body).await?);
        Ok(())
    }

    /// Writes the last bytes. The file then appears, if `hold` returns no error. Returns the file's length. After an error, call
    /// [`Parts::abort`].
    pub(super) async fn finish<A: LakeAccount, E: From<CopyError>>(
        &mut self,
        account: &A,
        rest: Bytes,
        hold: impl Future<Output = Result<(), E>>,
    ) -> Result<u64, E> {
        let length = self.written + rest.len() as u64;
        match &mut self.upload {
            None => {
                hold.await?;
                account.put(&self.spec, rest).await?;
            }
            Some((upload, parts)) => {
                parts.push(account.part(upload, parts.len() as i32 + 1, rest).await?);
                hold.await?;
                account.complete(upload, parts.clone()).await?;
            }
        }
        Ok(length)
    }

    /// Gives the file up.
    pub(super) async fn abort<A: LakeAccount>(&self, account: &A) {
        if let Some((upload, _)) = &self.upload {
            account.abort(upload).await;
        }
    }
}
