//! Numbers as people write them, digit by digit.

/// Digits, and what they are multiplied by.
pub(crate) fn size(text: &str) -> Option<u64> {
    let units = [
        ("k", 1 << 10),
        ("K", 1 << 10),
        ("M", 1 << 20),
        ("G", 1 << 30),
    ];
    let unit = units.into_iter().find(|(unit, _)| text.ends_with(unit));
    let (digits, unit) = match unit {
        Some((_, unit)) => (&text[..text.len() - 1], unit),
        None => (text, 1),
    };
    number(digits, 10)?.checked_mul(unit)
}

/// Digits and nothing else, as far as they are a number of 64 bits.
pub(crate) fn number(digits: &str, base: u32) -> Option<u64> {
    let mut number: Option<u64> = None;
    for digit in digits.chars() {
        let digit = u64::from(digit.to_digit(base)?);
        let before = number.unwrap_or(0).checked_mul(base.into())?;
        number = Some(before.checked_add(digit)?);
    }
    number
}
