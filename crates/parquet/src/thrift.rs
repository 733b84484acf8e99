//! Thrift's compact protocol, as much as Parquet's headers need of it. Nothing is allocated; whoever calls decides what to keep.
//! (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>)

/// Deepest nesting of what is skipped.
const MAX_DEPTH: u32 = 16;

/// Types, as fields and lists name them.
pub(crate) const TRUE: u8 = 1;
pub(crate) const FALSE: u8 = 2;
pub(crate) const BYTE: u8 = 3;
pub(crate) const I32: u8 = 5;
pub(crate) const I64: u8 = 6;
pub(crate) const BINARY: u8 = 8;
pub(crate) const LIST: u8 = 9;
pub(crate) const STRUCT: u8 = 12;
const I16: u8 = 4;
const DOUBLE: u8 = 7;
const SET: u8 = 10;
const MAP: u8 = 11;
const UUID: u8 = 13;

/// Why bytes are not what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They end within a value.
    End,
    /// They are something else.
    Bad(&'static str),
}

/// Reads values one after another.
pub(crate) struct Thrift<'a> {
    rest: &'a [u8],
}

impl<'a> Thrift<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Gives each field of a struct, by number and type, to `field`, which reads or skips it.
    pub(crate) fn fields(&mut self, field: &mut dyn FnMut(&mut Self, i16, u8) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut id = 0i16;
        loop {
            let head = self.byte()?;
            if head & 15 == 0 {
                return Ok(());
            }
            id = match head >> 4 {
                0 => i16::try_from(self.int()?).map_err(|_| Fault::Bad("a field's number is too large"))?,
                delta => id.checked_add(i16::from(delta)).ok_or(Fault::Bad("a field's number is too large"))?,
            };
            field(self, id, head & 15)?;
        }
    }

    /// How many elements of which type a list has.
    pub(crate) fn list(&mut self) -> Result<(usize, u8), Fault> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => usize::try_from(self.varint()?).map_err(|_| Fault::Bad("a list is too long"))?,
            count => usize::from(count),
        };
        // Each element takes a byte at least.
        if count > self.rest.len() { Err(Fault::End) } else { Ok((count, head & 15)) }
    }

    /// An integer of 16, 32 or 64 bits.
    pub(crate) fn int(&mut self) -> Result<i64, Fault> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.varint()?;
        self.take(usize::try_from(len).map_err(|_| Fault::End)?)
    }

    /// Passes over a value of a field.
    pub(crate) fn skip(&mut self, kind: u8) -> Result<(), Fault> {
        self.skip_at(kind, MAX_DEPTH)
    }

    fn skip_at(&mut self, kind: u8, depth: u32) -> Result<(), Fault> {
        let depth = depth.checked_sub(1).ok_or(Fault::Bad("it is nested too deeply"))?;
        match kind {
            TRUE | FALSE => Ok(()),
            BYTE => self.byte().map(drop),
            I16 | I32 | I64 => self.varint().map(drop),
            DOUBLE => self.take(8).map(drop),
            BINARY => self.binary().map(drop),
            UUID => self.take(16).map(drop),
            STRUCT => self.fields(&mut |thrift, _, kind| thrift.skip_at(kind, depth)),
            LIST | SET => {
                let (count, kind) = self.list()?;
                (0..count).try_for_each(|_| self.skip_element(kind, depth))
            }
            MAP => {
                let count = self.varint()?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                (0..count).try_for_each(|_| {
                    self.skip_element(kinds >> 4, depth)?;
                    self.skip_element(kinds & 15, depth)
                })
            }
            _ => Err(Fault::Bad("a value is of no known type")),
        }
    }

    /// Truth values take a byte in lists and maps, none in fields.
    fn skip_element(&mut self, kind: u8, depth: u32) -> Result<(), Fault> {
        self.skip_at(if matches!(kind, TRUE | FALSE) { BYTE } else { kind }, depth)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Fault::End)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(Fault::Bad("an integer is longer than 64 bits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct with one field of each type, field 20 by its full number.
    const ALL: &[u8] = &[
        0x11, 0x12, 0x13, 0xff, 0x14, 0x03, 0x15, 0x80, 0x01, 0x16, 0x02, 0x17, 0, 0, 0, 0, 0, 0, 0, 0, 0x18, 0x02, b'h', b'i',
        0x19, 0x21, 0x01, 0x02, 0x1a, 0x15, 0x04, 0x1b, 0x01, 0x58, 0x02, 0x01, b'x', 0x1c, 0x11, 0, 0x05, 0x28, 0x0a, 0,
    ];

    #[test]
    fn known_bytes() {
        let mut seen = Vec::new();
        let mut thrift = Thrift::new(ALL);
        let mut field = |thrift: &mut Thrift<'_>, id, kind| {
            seen.push(id);
            match id {
                4 | 5 | 6 | 20 => seen.push(thrift.int()? as i16),
                8 => assert_eq!(thrift.binary()?, b"hi"),
                _ => thrift.skip(kind)?,
            }
            Ok(())
        };
        thrift.fields(&mut field).unwrap();
        assert_eq!(seen, [1, 2, 3, 4, -2, 5, 64, 6, 1, 7, 8, 9, 10, 11, 12, 20, 5]);
        assert_eq!(thrift.left(), 0);
    }

    #[test]
    fn cut_and_bad_bytes() {
        for len in 0..ALL.len() {
            assert_eq!(Thrift::new(&ALL[..len]).skip(STRUCT), Err(Fault::End), "{len}");
        }
        for bad in [&[0x1f][..], &[0x15, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], &[0x1c; 40]] {
            assert!(matches!(Thrift::new(bad).skip(STRUCT), Err(Fault::Bad(_))), "{bad:?}");
        }
        // A list of 2^28 elements in six bytes.
        assert_eq!(Thrift::new(&[0xf5, 0x80, 0x80, 0x80, 0x80, 1]).skip(LIST), Err(Fault::End));
    }
}
