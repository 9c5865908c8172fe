//! The persisted values.

use crate::lifecycle::User;
use crate::store::StoreError;

/// Reads a user back.
///
/// # Errors
/// [`StoreError::UnknownVersion`] or [`StoreError::Damaged`].
pub fn decode_user(bytes: &[u8]) -> Result<User, StoreError> {
    todo!("{bytes:?}")
}
