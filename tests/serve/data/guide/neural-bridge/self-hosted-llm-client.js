// Generated from self-hosted-llm-client.ts (sha256 1f82e8a7df1f834724dfae1303ee287a12c3b0a11d991bd8df2ef0a3beddc4e4) by esbuild 0.25: --format=cjs --target=node20 --platform=node
var __defProp = Object.defineProperty;
var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __hasOwnProp = Object.prototype.hasOwnProperty;
var __export = (target, all) => {
  for (var name in all)
    __defProp(target, name, { get: all[name], enumerable: true });
};
var __copyProps = (to, from, except, desc) => {
  if (from && typeof from === "object" || typeof from === "function") {
    for (let key of __getOwnPropNames(from))
      if (!__hasOwnProp.call(to, key) && key !== except)
        __defProp(to, key, { get: () => from[key], enumerable: !(desc = __getOwnPropDesc(from, key)) || desc.enumerable });
  }
  return to;
};
var __toCommonJS = (mod) => __copyProps(__defProp({}, "__esModule", { value: true }), mod);
var self_hosted_llm_client_exports = {};
__export(self_hosted_llm_client_exports, {
  SelfHostedLLMClient: () => SelfHostedLLMClient,
  createSelfHostedClient: () => createSelfHostedClient,
  getGlobalSelfHostedClient: () => getGlobalSelfHostedClient
});
module.exports = __toCommonJS(self_hosted_llm_client_exports);
var import_logger = require("../utils/logger");
const logger = (0, import_logger.createLogger)("Neural Bridge:SelfHostedClient");
class SelfHostedLLMClient {
  baseUrl;
  modelName;
  timeout;
  maxRetries;
  constructor(config) {
    this.baseUrl = config.baseUrl.replace(/\/$/, "");
    this.modelName = config.modelName;
    this.timeout = config.timeout || 3e4;
    this.maxRetries = config.maxRetries || 3;
  }
  /**
   * Check if the vLLM server is healthy and ready
   */
  async healthCheck() {
    try {
      const response = await fetch(`${this.baseUrl}/health`, {
        method: "GET",
        signal: AbortSignal.timeout(5e3)
      });
      if (!response.ok) {
        logger.error("Health check failed", { status: response.status });
        return false;
      }
      const data = await response.json();
      logger.info("vLLM server healthy", {
        model: data.model,
        numLayers: data.num_layers,
        hiddenSize: data.hidden_size
      });
      return data.status === "healthy";
    } catch (error) {
      logger.error("Health check error", { error });
      return false;
    }
  }
  /**
   * Extract hidden states from prompts
   */
  async extractHiddenStates(prompts, layer = -2) {
    const startTime = Date.now();
    if (!prompts || prompts.length === 0) {
      throw new Error("Prompts array cannot be empty");
    }
    if (prompts.length > 32) {
      logger.warn("Large batch size may cause timeout", { count: prompts.length });
    }
    const request = {
      prompts,
      layer,
      maxTokens: 1,
      temperature: 0,
      returnHiddenStates: true
    };
    let lastError = null;
    for (let attempt = 1; attempt <= this.maxRetries; attempt++) {
      try {
        const response = await fetch(`${this.baseUrl}/v1/hidden_states`, {
          method: "POST",
          headers: {
            "Content-Type": "application/json"
          },
          body: JSON.stringify(request),
          signal: AbortSignal.timeout(this.timeout)
        });
        if (!response.ok) {
          const errorText = await response.text();
          throw new Error(`HTTP ${response.status}: ${errorText}`);
        }
        const data = await response.json();
        const results = prompts.map((prompt, i) => ({
          prompt,
          hiddenState: data.hidden_states[i],
          layer: data.layer,
          tokenCount: data.prompt_tokens[i],
          metadata: {
            model: data.model,
            provider: "SelfHosted-vLLM",
            timestamp: /* @__PURE__ */ new Date(),
            processingTime: Date.now() - startTime
          }
        }));
        logger.info("Successfully extracted hidden states", {
          count: results.length,
          layer: data.layer,
          hiddenSize: data.metadata.hidden_size,
          processingTime: Date.now() - startTime
        });
        return results;
      } catch (error) {
        lastError = error;
        logger.error("Hidden state extraction attempt failed", {
          attempt,
          maxRetries: this.maxRetries,
          error: lastError.message
        });
        if (attempt < this.maxRetries) {
          const delay = Math.pow(2, attempt) * 1e3;
          logger.info("Retrying extraction", { delayMs: delay });
          await new Promise((resolve) => setTimeout(resolve, delay));
        }
      }
    }
    throw new Error(
      `Failed to extract hidden states after ${this.maxRetries} attempts: ${lastError?.message}`
    );
  }
  /**
   * Generate text completion
   */
  async complete(prompt, options = {}) {
    const response = await fetch(`${this.baseUrl}/v1/completions`, {
      method: "POST",
      headers: {
        "Content-Type": "application/json"
      },
      body: JSON.stringify({
        prompt,
        max_tokens: options.maxTokens || 100,
        temperature: options.temperature || 0.7,
        top_p: options.topP || 0.9,
        output_hidden_states: options.outputHiddenStates || false,
        hidden_state_layer: options.hiddenStateLayer || -2
      }),
      signal: AbortSignal.timeout(this.timeout)
    });
    if (!response.ok) {
      const errorText = await response.text();
      throw new Error(`Completion failed: ${response.status} - ${errorText}`);
    }
    const data = await response.json();
    return {
      text: data.choices[0].text,
      hiddenStates: data.hidden_states,
      usage: {
        promptTokens: data.usage.prompt_tokens,
        completionTokens: data.usage.completion_tokens,
        totalTokens: data.usage.total_tokens
      }
    };
  }
  /**
   * Batch extract hidden states with automatic chunking
   */
  async extractHiddenStatesBatch(prompts, layer = -2, batchSize = 8) {
    const results = [];
    for (let i = 0; i < prompts.length; i += batchSize) {
      const batch = prompts.slice(i, i + batchSize);
      logger.info("Processing batch", {
        batchIndex: Math.floor(i / batchSize) + 1,
        totalBatches: Math.ceil(prompts.length / batchSize),
        batchSize: batch.length
      });
      const batchResults = await this.extractHiddenStates(batch, layer);
      results.push(...batchResults);
    }
    return results;
  }
}
let globalClient = null;
function createSelfHostedClient(config) {
  return new SelfHostedLLMClient(config);
}
function getGlobalSelfHostedClient() {
  if (!globalClient) {
    const baseUrl = process.env.VLLM_BASE_URL || "http://localhost:8000";
    const modelName = process.env.VLLM_MODEL_NAME || "llama-3.1-8b";
    globalClient = new SelfHostedLLMClient({
      baseUrl,
      modelName,
      timeout: 6e4,
      // 60 seconds
      maxRetries: 3
    });
    logger.info("Initialized global self-hosted client", { baseUrl, modelName });
  }
  return globalClient;
}
// Annotate the CommonJS export names for ESM import in node:
0 && (module.exports = {
  SelfHostedLLMClient,
  createSelfHostedClient,
  getGlobalSelfHostedClient
});
