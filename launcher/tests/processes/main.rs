//! The launcher's programs as processes, with stand-ins for the coordinator and the trainers.

mod agent;
mod chaos;
mod desk;
mod launch;
mod made_up_data;
mod programs;
mod reproduce;
