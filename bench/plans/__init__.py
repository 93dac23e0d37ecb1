"""What shall be measured: plans (the bundled ones lie here, too), their workloads and arrival times."""
