//! Reading and writing the pieces of a persisted value: varints, times, text. Bounds-checked; never panics on any bytes.

use crate::store::StoreError;
use crate::time::EventTime;

/// Appends an unsigned LEB128 number.
pub(crate) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends a signed number, small when it is near zero (zigzag).
pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Appends a time as its distance before `base`. Wraps, so that every pair of times comes back.
pub(crate) fn put_before(out: &mut Vec<u8>, base: EventTime, time: EventTime) {
    put_i64(out, base.as_millis().wrapping_sub(time.as_millis()));
}

/// Appends text with its length.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u64(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// What is left of a value to read.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(rest: &'a [u8], what: &'static str) -> Self {
        Self { rest, what }
    }

    pub(crate) fn damaged(&self, why: &str) -> StoreError {
        StoreError::Damaged { what: format!("{}: {why}", self.what) }
    }

    /// The version byte, which has to be `known`.
    pub(crate) fn version(&mut self, known: u8) -> Result<(), StoreError> {
        match self.version_up_to(known)? {
            version if version == known => Ok(()),
            version => Err(StoreError::UnknownVersion { what: self.what, version, known }),
        }
    }

    /// The version byte: `known` or one that came before.
    pub(crate) fn version_up_to(&mut self, known: u8) -> Result<u8, StoreError> {
        match self.byte()? {
            0 => Err(self.damaged("version 0, which there never was")),
            version if version <= known => Ok(version),
            version => Err(StoreError::UnknownVersion { what: self.what, version, known }),
        }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, StoreError> {
        let (&first, rest) = self.rest.split_first().ok_or_else(|| self.damaged("it ends too early"))?;
        self.rest = rest;
        Ok(first)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.damaged("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, StoreError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.damaged("a number is too long"))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, StoreError> {
        u32::try_from(self.u64()?).map_err(|_| self.damaged("a number is too large"))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, StoreError> {
        u16::try_from(self.u64()?).map_err(|_| self.damaged("a number is too large"))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, StoreError> {
        let value = self.u64()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// A count of things of which each takes at least a byte: never more than there are bytes left.
    pub(crate) fn count(&mut self) -> Result<usize, StoreError> {
        let count = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        if count > self.rest.len() { Err(self.damaged("it ends too early")) } else { Ok(count) }
    }

    pub(crate) fn before(&mut self, base: EventTime) -> Result<EventTime, StoreError> {
        Ok(EventTime::from_millis(base.as_millis().wrapping_sub(self.i64()?)))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, StoreError> {
        let len = self.count()?;
        self.text_of(len)
    }

    pub(crate) fn text_of(&mut self, len: usize) -> Result<&'a str, StoreError> {
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.damaged("text that is not UTF-8"))
    }

    /// Everything has to be read.
    pub(crate) fn end(&self) -> Result<(), StoreError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.damaged("bytes after its end")) }
    }
}
