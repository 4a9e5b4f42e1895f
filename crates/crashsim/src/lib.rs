//! The power-fail simulator. It knows the seams of [`media`] and nothing of the engines above them.
