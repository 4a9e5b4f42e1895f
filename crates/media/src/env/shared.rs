//! [`Shared`]: what the threads of a process share, in a value instead of statics.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use crate::sync::{Arc, Mutex, PoisonError};

/// One value of each type that is asked for, made when it is asked for first.
///
/// It stands in for statics of the crates above: a simulated process has its own, and a run whose schedules are explored sees
/// nothing of an earlier run.
#[derive(Default)]
pub struct Shared {
    values: Mutex<BTreeMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    /// Returns the one of this process.
    #[must_use]
    pub(crate) fn of_this_process() -> Arc<Self> {
        static OF_THIS_PROCESS: OnceLock<Arc<Shared>> = OnceLock::new();
        Arc::clone(OF_THIS_PROCESS.get_or_init(Arc::default))
    }

    /// Returns the value of this type.
    pub fn get<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let value = values.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(T::default()));
        // A value is kept under its own type, so the second arm is never taken.
        Arc::downcast(Arc::clone(value)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_value_of_each_type() {
        let shared = Shared::default();
        let (one, other) = (shared.get::<Mutex<u8>>(), shared.get::<Mutex<u16>>());
        *one.lock().unwrap() = 1;
        *other.lock().unwrap() = 2;
        assert!(Arc::ptr_eq(&one, &shared.get::<Mutex<u8>>()));
        assert_eq!(
            (*shared.get::<Mutex<u8>>().lock().unwrap(), *shared.get::<Mutex<u16>>().lock().unwrap()),
            (1, 2)
        );
        assert_eq!(*Shared::default().get::<Mutex<u8>>().lock().unwrap(), 0);
        assert!(Arc::ptr_eq(&Shared::of_this_process(), &crate::Env::os().shared));
    }
}
