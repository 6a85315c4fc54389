pub mod h1;
pub mod h2;
