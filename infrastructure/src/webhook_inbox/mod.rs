//! The inbox: a webhook is stored before it is answered, and answered before it is interpreted.

mod interpreter;
mod store;

pub use interpreter::{Interpreter, InterpreterConfig};
pub use store::store;
