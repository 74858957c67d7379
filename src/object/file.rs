//! Local files as objects, for `logferry manual`. A file's modification time is its LastModified.

use std::{
    collections::HashMap,
    fs::File,
    io::{ErrorKind, Read},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;

use super::{ObjectBody, ObjectError, ObjectHead, ObjectStore};
use crate::event::ObjectRef;

/// Bytes of one read.
const CHUNK: usize = 256 << 10;

/// Files by the keys that they stand for. An object's bucket is ignored.
#[derive(Clone, Debug, Default)]
pub struct FileStore {
    files: Arc<HashMap<String, PathBuf>>,
}

/// An open file.
#[derive(Debug)]
pub struct FileBody {
    file: File,
    len: u64,
    path: PathBuf,
}

impl FileStore {
    /// Keys and paths of the files.
    pub fn new(files: HashMap<String, PathBuf>) -> Self {
        Self { files: Arc::new(files) }
    }

    fn find(&self, object: &ObjectRef) -> Result<(Timestamp, FileBody), ObjectError> {
        let missing = || ObjectError::Missing(format!("no file stands for {:?}", object.key));
        let path = self.files.get(&object.key).ok_or_else(missing)?;
        let failed = |error| failed(path, &error);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let modified = metadata.modified().map_err(failed)?;
        // A time that jiff does not have is tens of thousands of years away.
        let modified = Timestamp::try_from(modified).unwrap_or_default();
        Ok((modified, FileBody { file, len: metadata.len(), path: path.clone() }))
    }
}

impl ObjectStore for FileStore {
    type Body = FileBody;

    async fn open(
        &self,
        object: &ObjectRef,
        _owner: Option<&str>,
    ) -> Result<(Timestamp, FileBody), ObjectError> {
        self.find(object)
    }

    async fn head(&self, object: &ObjectRef, _owner: Option<&str>) -> Result<ObjectHead, ObjectError> {
        let (_, body) = self.find(object)?;
        Ok(ObjectHead { size: Some(body.len), ..ObjectHead::default() })
    }
}

impl ObjectBody for FileBody {
    fn content_length(&self) -> Option<u64> {
        Some(self.len)
    }

    fn has_check_ahead(&self) -> bool {
        false
    }

    // Reads in the caller's thread: the command has nothing else to do meanwhile.
    async fn chunk(&mut self) -> Result<Option<Bytes>, ObjectError> {
        let mut bytes = Vec::with_capacity(CHUNK);
        let read = (&mut self.file).take(CHUNK as u64).read_to_end(&mut bytes);
        match read.map_err(|error| failed(&self.path, &error))? {
            0 => Ok(None),
            _ => Ok(Some(bytes.into())),
        }
    }
}

fn failed(path: &std::path::Path, error: &std::io::Error) -> ObjectError {
    let problem = format!("{}: {error}", path.display());
    match error.kind() {
        ErrorKind::NotFound => ObjectError::Missing(problem),
        ErrorKind::PermissionDenied => ObjectError::Denied(problem),
        _ => ObjectError::Unavailable(problem),
    }
}
