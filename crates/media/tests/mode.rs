//! Permission bits.

use media::Mode;

#[test]
fn type_bits_are_dropped_and_set_id_bits_kept() {
    assert_eq!(Mode::new(0o100_644).bits(), 0o644);
    assert_eq!(Mode::new(u32::MAX).bits(), 0o7777);
}

#[test]
fn a_mask_takes_bits_away_and_never_adds() {
    assert_eq!(Mode::FILE.without(Mode::new(0o027)), Mode::new(0o640));
    assert_eq!(Mode::PRIVATE.without(Mode::new(0o077)), Mode::PRIVATE);
    assert_eq!(Mode::DIR.without(Mode::new(0)), Mode::DIR);
}

#[test]
fn without_set_id_keeps_the_sticky_bit_and_the_permissions() {
    assert_eq!(Mode::new(0o7755).without_set_id(), Mode::new(0o1755));
}

#[test]
fn shows_as_four_octal_digits() {
    assert_eq!(Mode::PRIVATE.to_string(), "0600");
    assert_eq!(format!("{:?}", Mode::new(0o4755)), "Mode(4755)");
}
