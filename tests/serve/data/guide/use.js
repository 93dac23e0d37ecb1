// Uses the guide's client as its section 5 does; prints what came back as one JSON document.
const { createSelfHostedClient, getGlobalSelfHostedClient } = require("./neural-bridge/self-hosted-llm-client.js");

(async () => {
  const client = createSelfHostedClient({ baseUrl: process.argv[2], modelName: "demo-1m", maxRetries: 1 });
  const prompts = ["What is AI?", "Explain quantum physics", "The future of AI is bright"];
  const states = await client.extractHiddenStates(prompts, -2);
  const batches = await client.extractHiddenStatesBatch(prompts, -2, 2);
  const refused = await client.extractHiddenStates(["x"], 99).catch((error) => error.message);
  const completion = await client.complete("The river", {
    maxTokens: 5,
    outputHiddenStates: true,
    hiddenStateLayer: -2,
  });
  const plain = await client.complete("The river", { maxTokens: 5 });
  console.log(
    JSON.stringify({
      healthy: await client.healthCheck(),
      globallyHealthy: await getGlobalSelfHostedClient().healthCheck(),
      states,
      batches,
      refused,
      completion,
      plain,
    }),
  );
})();
